/** Domain names: as people write them, and on the wire. */
import { isPlainName, nameToWire, readName, WireError } from '../../../src/dns/wire.js';
import { canonicalName, isPublicSuffix, nameMatches } from '../../../src/lib/dns-name.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

const LETTERS = [
  'a',
  'B',
  '0',
  '-',
  '_',
  '.',
  '..',
  'xn--',
  'ß',
  'ı',
  'İ',
  '。',
  '．',
  '\u200d',
  '\u00ad',
  '%2e',
];

function written(text: string): void {
  for (const least of [1, 2] as const) {
    const parsed = canonicalName(text, least);
    if (!parsed.ok) {
      must(parsed.problems.length > 0, 'refused without a word');
      continue;
    }
    const name = parsed.value;
    mustEqual(canonicalName(name, least), parsed, 'the canonical form is none');
    must(isPlainName(name) && name.length <= 253, 'a canonical name that DNS does not take');
    must(name.split('.').length >= least, 'fewer labels than asked for');
    must(readName(nameToWire(name), 0).name === name, 'a canonical name that changes on the wire');
    isPublicSuffix(name);
    must(!nameMatches({ match: 'below', name }, name), 'a wildcard that covers its own name');
    must(nameMatches({ match: 'both', name }, `x.${name}`), 'a suffix that does not cover what is below it');
    must(!nameMatches({ match: 'both', name }, `x${name}`), 'a suffix that covers a neighbour');
  }
}

function onWire(input: Buffer): void {
  let read: ReturnType<typeof readName>;
  try {
    read = readName(input, 0);
  } catch (error) {
    if (error instanceof WireError) return;
    throw error;
  }
  const wire = nameToWire(read.name);
  must(readName(wire, 0).name === read.name, 'a name that changes on the wire');
  // What no entry can match must not read as a name that one does.
  if (isPlainName(read.name.toLowerCase())) must(!/[^A-Za-z0-9._-]/.test(read.name), 'plain with odd bytes');
}

function generate(random: Random): Buffer {
  const parts = Array.from({ length: 1 + random.below(12) }, () => random.pick(LETTERS));
  return Buffer.from(parts.join(''));
}

export const names: Target = {
  name: 'names',
  corpus: [
    ...bytes(
      'example.com',
      'Api.Example.COM.',
      'bücher.example',
      'xn--bcher-kva.example',
      'a_b.c-d.org',
      'co.uk',
    ),
    Buffer.from(`xn--${'bcxamp'.repeat(10_000)}`),
    Buffer.from('\x03api\x07example\x03com\x00', 'latin1'),
    Buffer.from([1, 97, 0xc0, 0]),
  ],
  words: bytes(...LETTERS, '127.0.0.1', '0x7f', 'localhost', '\x00', '\x3f', '\u{1f600}'),
  maxLength: 65_536,
  generate,
  check: (input) => {
    written(input.toString('utf8'));
    onWire(input);
  },
};
