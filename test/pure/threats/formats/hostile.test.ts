/** Bodies that are no lists, and bodies made to do harm. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FEED_FORMATS } from '../../../../src/config/feed-config.js';
import { formatNamed, parseBody } from '../../../../src/threats/formats/parse-body.js';
import { load, NOW } from '../feed-shape.js';

describe('detection', () => {
  const refused = async (body: string): Promise<string> => {
    const outcome = await parseBody(Buffer.from(body), {
      format: 'auto',
      maxSize: 1e6,
      maxFound: 1e6,
      now: NOW,
    });
    return outcome.ok ? `read as ${outcome.format}` : outcome.reason;
  };
  it('tells what is no list', async () => {
    expect(await refused('<!DOCTYPE html><html>blocked</html>')).toMatch(/web page/);
    expect(await refused('{"error":"rate limited"}')).toMatch(/none of the known kinds/);
    expect(await refused('   \n\n')).toMatch(/empty/);
    expect(await refused('Too many requests, slow down please.')).toMatch(/looks like/);
  });
  it('a named format that does not exist is told', async () => {
    const outcome = await parseBody(Buffer.from('x'), {
      format: 'nope',
      maxSize: 1e6,
      maxFound: 1e6,
      now: NOW,
    });
    expect(outcome).toMatchObject({ ok: false, reason: 'no such format: nope' });
  });
});

it('no parser throws, whatever the body', { timeout: 60_000 }, async () => {
  const line = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.ipV4(),
    fc.ipV6(),
    fc.domain(),
    fc.json({ maxDepth: 3 }),
    fc.constantFrom(
      '||',
      '@@||^',
      '"',
      '{',
      'address=/',
      '[ipv4-addr:value',
      '\t\t',
      '0.0.0.0',
      '#',
      '# END 9 entries',
    ),
  );
  const body = fc.oneof(
    fc.uint8Array({ maxLength: 400 }),
    fc.array(line, { maxLength: 8 }).map((lines) => Buffer.from(lines.join('\n'))),
  );
  const format = fc.constantFrom(...FEED_FORMATS);
  await fc.assert(
    fc.asyncProperty(body, format, async (octets, name) => {
      const outcome = await parseBody(octets, { format: name, maxSize: 1e6, maxFound: 1e6, now: NOW });
      expect(typeof outcome.ok).toBe('boolean');
      if (outcome.ok && name !== 'auto') expect(outcome.format).toBe(formatNamed(name));
    }),
    { numRuns: 3000 },
  );
});

describe('time and memory', () => {
  /** Each would take minutes were some expression quadratic. */
  const traps: Record<string, string> = {
    blanks: `a${' '.repeat(60_000)}b\n`,
    letters: `a.${'a'.repeat(60_000)}!\n`,
    dots: `${'a.'.repeat(30_000)}!\n`,
    slashes: `address=/${'/'.repeat(60_000)}!\n`,
    colons: `${':'.repeat(60_000)}\n`,
    quotes: `${'"'.repeat(60_001)}\n`,
    commas: `${','.repeat(60_000)}\n`,
    digits: `192.0.2.7 - ${'9'.repeat(60_000)}\n`,
    hashes: `||${'#'.repeat(60_000)}\n`,
    brackets: `${'['.repeat(60_000)}\n`,
    pattern: `{"objects":[{"type":"indicator","pattern":"[${"ipv4-addr:value = '".repeat(3000)}"}]}\n`,
  };
  for (const [name, line] of Object.entries(traps))
    it(`lines of ${name} take linear time in every format`, { timeout: 20_000 }, async () => {
      const body = Buffer.from(`192.0.2.7\n${line.repeat(5)}`);
      for (const format of FEED_FORMATS)
        await parseBody(body, { format, maxSize: 1e7, maxFound: 1e6, now: NOW });
    });

  it('a list that repeats itself without end is left', async () => {
    const outcome = await load('192.0.2.7\n'.repeat(100_000), { guards: { maxEntries: 1000 } });
    expect(outcome.ok ? '' : [outcome.refusal.code, outcome.refusal.reason]).toEqual([
      'too-many',
      'the list has more than 4000 lines',
    ]);
  });
});

it('the formats that a configuration may name are those that are read', () => {
  for (const name of FEED_FORMATS)
    expect([name, formatNamed(name) !== undefined]).toEqual([name, name !== 'auto']);
});
