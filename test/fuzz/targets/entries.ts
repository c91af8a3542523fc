/** Entries as text. */

import { isPublicSuffix } from '../../../src/lib/dns-name.js';
import { rangeToCidrs } from '../../../src/lib/ip.js';
import type { Problem } from '../../../src/lib/problem.js';
import type { DestEntry, Entry } from '../../../src/policy/entry.js';
import { isWide } from '../../../src/policy/entry-address.js';
import { entryFromObject } from '../../../src/policy/entry-object.js';
import { isDest, parseEntries, parseEntry } from '../../../src/policy/entry-parse.js';
import { effectivePorts } from '../../../src/policy/entry-ports.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

export const entryTexts: readonly string[] = [
  'api.github.com',
  '*.github.com, .example.org:80,443',
  '140.82.112.3',
  '10.1.0.0/16:5432\n10.0.0.5-10.0.0.9:22',
  '[2001:db8::/32]:443',
  '2001:db8::1/udp',
  'container:db:5432',
  'host:8125/udp',
  'any:443',
  'list:npm',
  'a.org:8000-8100/tcp+udp private tls=off quic=deny',
  '192.0.2.53:53/udp dns=direct',
  '*.com broad',
  '0.0.0.0/0 broad',
];
const PIECES = [
  'a.org',
  '*.b.example',
  '.co.uk',
  '10.0.0.1',
  '10.0.0.0/8',
  '::1',
  '[fe80::/10]',
  '-10.0.0.9',
  'host',
  'any',
  'container:x',
  'list:y',
  ':80',
  ':1-65535',
  ',443',
  '/udp',
  '/tcp+udp',
  '/icmp',
  '/ip-47',
  '/24',
  ' broad',
  ' private',
  ' tls=off',
  ' dns=direct',
  ', ',
  ',',
  '\n',
  '\t',
  '%eth0',
  '0',
  '::ffff:1.2.3.4',
];
export const entryWords = PIECES;

function told(problems: readonly Problem[]): void {
  must(problems.length > 0, 'refused without a word');
  for (const { detail, remedy } of problems.slice(0, 3)) must(detail !== '' && remedy !== '', 'no remedy');
}

/** What needs `broad` never comes without, unless it denies. */
function narrow({ target, flags, deny }: DestEntry): void {
  if (deny) must(flags.length === 0, 'a deny entry with flags');
  if (deny || flags.includes('broad')) return;
  if (target.kind === 'address') must(!isWide(target.range), 'a wide network without broad');
  if (target.kind === 'name' && target.match !== 'exact')
    must(!isPublicSuffix(target.name), 'a public suffix without broad');
}

function sound(entry: Entry): void {
  const again = parseEntry(entry.canonical);
  must(again.ok, `the canonical text ${JSON.stringify(entry.canonical)} is refused`);
  mustEqual(again.value, entry, 'the canonical text means something else');
  mustEqual(entryFromObject({ to: entry.canonical.split(' ')[0] }).ok || isDest(entry), true, 'no object');
  if (!isDest(entry)) return;
  narrow(entry);
  for (const { lo, hi } of entry.ports) must(lo >= 1 && lo <= hi && hi <= 65_535, 'ports out of range');
  effectivePorts(entry);
  if (entry.target.kind !== 'address') return;
  const { range } = entry.target;
  const cidrs = rangeToCidrs(range);
  must(cidrs.length <= 256 && cidrs[0]?.base === range.lo, 'networks that do not begin where the range does');
  const size = cidrs.reduce((sum, c) => sum + (1n << BigInt((c.family === 4 ? 32 : 128) - c.prefix)), 0n);
  must(size === range.hi - range.lo + 1n, 'networks that cover more or less than the range');
}

function checkEntries(text: string): void {
  const one = parseEntry(text);
  if (one.ok) sound(one.value);
  else told(one.problems);
  const all = parseEntries(text);
  if (!all.ok) {
    told(all.problems);
    return;
  }
  for (const entry of all.value.slice(0, 50)) sound(entry);
  for (const separator of ['\n', ', ']) {
    const joined = parseEntries(all.value.map(({ canonical }) => canonical).join(separator));
    mustEqual(joined, all, 'entries change when they are written and read again');
  }
}

export const generateEntries = (random: Random): string =>
  Array.from({ length: 1 + random.below(7) }, () => random.pick(PIECES)).join('');

export const entries: Target = {
  name: 'entries',
  corpus: bytes(...entryTexts),
  words: bytes(...PIECES),
  maxLength: 262_144,
  generate: (random) => Buffer.from(generateEntries(random)),
  check: (input) => checkEntries(input.toString('utf8')),
};
