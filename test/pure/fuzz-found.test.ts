/** What fuzzing has found, each once more: `npm run fuzz` looks for others. */
import { describe, expect, it } from 'vitest';
import { EMPTY_FOLDER, nextFolder, parseListFile } from '../../src/config/list-files.js';
import { decodeMessage, WireError } from '../../src/dns/wire.js';
import { parseEntries } from '../../src/policy/entry-parse.js';
import { readLabels } from '../../src/policy/labels.js';
import { listFromObject } from '../../src/policy/list-parse.js';
import { Random } from '../fuzz/random.js';
import { parsed as parsedFeed } from './threats/feed-shape.js';

/** Before, each took minutes or ended the process. */
const soon = (work: () => unknown): void => {
  const began = performance.now();
  work();
  expect(performance.now() - began).toBeLessThan(15_000);
};
const refusedFor = (text: string): string => {
  const read = parseListFile('/x/a.yaml', text);
  return read.ok ? 'read' : (read.problems[0]?.detail ?? '');
};

describe('YAML that is made to do harm', () => {
  it.each([
    ['brackets', '['.repeat(20_000), /more than 64 levels/],
    ['braces', '{a: '.repeat(10_000), /more than 64 levels/],
    ['dashes', '- '.repeat(20_000), /more than 64 levels/],
    ['dashes that all end at once', `match:\n  ${'- '.repeat(20_000)}x\nallow: []\n`, /more than 64 levels/],
    ['aliases of nothing', `allow:\n${'  - *ab\n'.repeat(10_000)}`, /aliases/],
    ['aliases', `allow:\n  - &ab x.org\n${'  - *ab\n'.repeat(20_000)}`, /aliases/],
    ['keys', Array.from({ length: 20_000 }, (_, i) => `k${i}: 1\n`).join(''), /keys/],
  ])('%s: refused with a place, and soon', (_, text, why) => {
    soon(() => expect(refusedFor(text)).toMatch(why));
    const read = parseListFile('/x/a.yaml', text);
    expect(read.ok ? [] : read.problems[0]).toMatchObject({ file: '/x/a.yaml', line: expect.any(Number) });
  });

  it('tells the first hundred faults of a text that is nothing else', () => {
    const read = parseListFile('/x/a.yaml', '}'.repeat(30_000));
    expect(read.ok ? 0 : read.problems.length).toBe(100);
  });

  it('leaves what was in force', () => {
    const last = nextFolder(new Map([['/x/a.yaml', { text: 'allow: [good.example]\n' }]]), EMPTY_FOLDER);
    const next = nextFolder(new Map([['/x/a.yaml', { text: '['.repeat(5000) }]]), last);
    expect(next.lists).toEqual(last.lists);
    expect(next.problems).toHaveLength(1);
  });

  it('still reads what people write: nesting, aliases and many entries', () => {
    expect(refusedFor('allow: [&a x.org]\n')).toBe('read');
    expect(refusedFor('x: &a [1]\nallow: [x.org]\ny: *a\n')).toMatch(/unknown key/);
    const many = Array.from({ length: 5000 }, (_, i) => `  - a${i}.example\n`).join('');
    expect(refusedFor(`allow:\n${many}`)).toBe('read');
  });
});

describe('a text of faults alone', () => {
  it('is read until there are 200, wherever it stands', () => {
    const faults = '4!,'.repeat(200_000);
    soon(() => {
      const read = parseEntries(faults);
      expect(read.ok ? 0 : read.problems.length).toBe(200);
    });
    soon(() => {
      const read = listFromObject('x', 'store', { allow: new Array<string>(200_000).fill('4!') });
      expect(read.ok ? 0 : read.problems.length).toBe(200);
    });
  });

  it('is no label: a label that is too long denies, and says so', () => {
    const long = Array.from({ length: 10_000 }, (_, i) => `a${i}.example`).join(',');
    const intent = readLabels(
      { labels: { 'drawbridge.allow': long }, imageLabels: {}, image: 'x', imageId: '' },
      [],
    );
    expect(intent).toMatchObject({ broken: true, allow: [], hasEntries: true });
    expect(intent.notes[0]?.remedy).toMatch(/drawbridge.lists/);
  });

  it('a thousand unknown labels are not a thousand notes', () => {
    const labels = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`drawbridge.x${i}`, '']));
    const intent = readLabels({ labels, imageLabels: {}, image: 'x', imageId: '' }, []);
    expect(intent.broken).toBe(true);
    expect(intent.notes.length).toBeLessThanOrEqual(100);
  });
});

describe('feeds of JSON that no text can be made of', () => {
  const odd = { toString: null, valueOf: null };
  it.each([
    [
      'crowdsec',
      { new: [odd, { scope: odd, value: '192.0.2.7' }, { scope: 'Ip', type: odd, value: '192.0.2.7' }] },
    ],
    ['misp', { response: [{ Attribute: [{ type: odd, value: odd }] }] }],
    ['misp', { list: [odd] }],
    ['stix', { objects: [{ type: 'indicator', id: odd, pattern: odd }] }],
  ])('%s', async (format, document) => {
    const found = await parsedFeed(JSON.stringify(document), format);
    expect(found.entries).toBe(0);
    expect(found.bad.count + found.unsupported.count).toBeGreaterThan(0);
  });

  it('ndjson: records that are no number', async () => {
    const found = await parsedFeed(JSON.stringify({ type: 'metadata', records: odd }), 'spamhaus');
    expect(found.fault).toMatch(/promises a map records/);
  });

  it('misp: events within events without end', async () => {
    const inner = '{"Attribute":[{"type":"ip-dst","value":"192.0.2.7"}]}';
    const deep = `${'{"Event":'.repeat(50_000)}${inner}${'}'.repeat(50_000)}`;
    expect((await parsedFeed(deep, 'misp')).entries).toBe(1);
  });
});

it('rdata with bytes behind its name is malformed', () => {
  const cname = Buffer.from('00038180000000010000000001780000050001000000090006', 'hex');
  const message = (rdata: string): Buffer => Buffer.concat([cname, Buffer.from(rdata, 'hex')]);
  expect(decodeMessage(message('0462626262 00'.replace(' ', ''))).answers[0]?.data).toHaveLength(6);
  expect(() => decodeMessage(message('016200616161'))).toThrow(WireError);
});

it('a seed gives the same numbers again, and its neighbour others', () => {
  const first = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 5 }, () => random.next());
  };
  expect(first(7)).toEqual(first(7));
  expect(first(7)).not.toEqual(first(8));
});
