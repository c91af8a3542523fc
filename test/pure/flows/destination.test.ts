/** How a destination is named in an entry: by what the host knows of it, and never by a text of the container that is another destination. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { askedName, destinationOf, privateName } from '../../../src/flows/destination.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { isDest, parseEntry } from '../../../src/policy/entry-parse.js';

const self = { id: 'c', name: 'web', labels: {}, endpoints: [] } as unknown as ContainerFacts;
const around = {
  view: { containers: new Map(), networks: new Map() } as never,
  self,
  isHost: () => false,
  isPrivate: (address: string) => address.startsWith('10.'),
};
/** The entries that a name leads to, wherever the container has it resolve to. */
const entriesFor = (name: string): readonly (string | null)[] => [
  askedName(name).entry,
  privateName(name),
  ...['93.184.1.1', '10.0.0.5'].flatMap((address) =>
    [0, 443, 5432].flatMap((port) =>
      ['tcp', 'udp', 'icmp'].map((proto) => {
        const { kind, entry } = destinationOf({ address, port, proto, names: [name] }, around);
        return kind === 'name' ? entry : null;
      }),
    ),
  ),
];

const OTHERS = [
  ...[
    'any',
    'host',
    'ANY',
    'any.',
    '10.0.0.9',
    '10.0.0.0/8',
    '2001:db8::1',
    '[2001:db8::1]',
    '0x7f.1',
    '127.1',
  ],
  ...['list:npm', 'container:db', '!a.org', '*.a.org', '.a.org', '*', 'a.org,any', 'a.org, any', 'a.org:22'],
  ...[
    'a.org broad',
    'a.org private',
    'a.org tls=off',
    'a.org/udp',
    'https://a.org',
    'a.org\nany',
    '',
    '.',
    '#a.org',
  ],
];
const word = fc.constantFrom(
  'any',
  'host',
  'a',
  'org',
  '10',
  '0',
  '9',
  'xn--',
  '0x1',
  'container',
  'list',
  'co',
  'uk',
);
const mark = fc.constantFrom('', '.', '.', ':', ',', ' ', '!', '*', '/', '[', ']', '\n', '#', '\\058');
const name = fc
  .array(fc.tuple(mark, word), { minLength: 1, maxLength: 6 })
  .map((parts) => parts.map(([before, text]) => `${before}${text}`).join(''));

describe('the entry for a name of a container', () => {
  it('is of this name alone, whatever the text is', () => {
    const isOfName = (text: string): void => {
      for (const entry of entriesFor(text)) {
        if (entry === null) continue;
        const parsed = parseEntry(entry);
        if (!parsed.ok || !isDest(parsed.value)) throw new Error(entry);
        const { target, flags, deny } = parsed.value;
        expect(target, entry).toEqual({
          kind: 'name',
          match: 'exact',
          name: text.replace(/\.$/, '').toLowerCase(),
        });
        expect([flags.filter((flag) => flag !== 'private'), deny], entry).toEqual([[], undefined]);
      }
    };
    fc.assert(fc.property(fc.oneof(name, fc.string(), fc.constantFrom(...OTHERS)), isOfName), {
      numRuns: 300,
    });
  });

  it.each(OTHERS)('does not exist for %j', (text) =>
    expect(entriesFor(text).filter((entry) => entry !== null)).toEqual([]),
  );

  it('exists for a name of two labels', () => {
    expect(askedName('a.org').entry).toBe('a.org');
    expect(privateName('a.org')).toBe('a.org private');
    const sent = { address: '93.184.1.1', port: 22, proto: 'tcp', names: ['a.org'] };
    expect(destinationOf(sent, around)).toMatchObject({ kind: 'name', entry: 'a.org:22' });
  });
});

it.each(['any', 'host', '10.0.0.9'])('what was resolved as %j is named by its address', (name) => {
  const sent = { address: '93.184.1.1', port: 443, proto: 'tcp', names: [name] };
  expect(destinationOf(sent, around)).toMatchObject({ kind: 'address', entry: '93.184.1.1:443' });
});
