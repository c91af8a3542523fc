/** Bodies of threat feeds, in every format, packed and plain. */
import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { FEED_FORMATS } from '../../../src/config/feed-config.js';
import { canonicalName } from '../../../src/lib/dns-name.js';
import { formatRange } from '../../../src/lib/ip.js';
import type { Collector } from '../../../src/threats/formats/collector.js';
import { formatNamed, type ParseOutcome, parseBody } from '../../../src/threats/formats/parse-body.js';
import { toModel } from '../../../src/threats/ranges.js';
import { bend } from '../json.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

const TEXTS = [
  '# comment\n192.0.2.7\n198.51.100.0/24 ; x\n203.0.113.5-203.0.113.9\n2001:db8::/32\n',
  '"first_seen","dst_ip","dst_port"\n"2026-01-01","192.0.2.7","443"\n# END (1 entries)\n',
  '192.0.2.0\t192.0.2.255\t24\t100\tX\n',
  '192.0.2.7\t5\n198.51.100.9\t2\n',
  '{"cidr":"192.0.2.0/24","sblid":"SBL1"}\n{"type":"metadata","records":1}\n',
  '127.0.0.1 localhost\n0.0.0.0 evil.example bad.example # x\n',
  'evil.example\n*.bad.example\n.worse.example\n',
  '[Adblock Plus]\n||evil.example^\n@@||good.example^$important\nexample.com##.ad\n',
  'address=/evil.example/0.0.0.0\nserver=/bad.example/\nlocal-zone: "worse.example" always_nxdomain\n',
];
const DOCUMENTS: readonly unknown[] = [
  {
    response: [
      {
        Event: {
          Attribute: [{ type: 'ip-dst', value: '192.0.2.7', to_ids: true }],
          Object: [{ Attribute: [{ type: 'domain|ip', value: 'evil.example|192.0.2.7' }] }],
        },
      },
    ],
  },
  { description: 'x', list: ['192.0.2.0/24', '.example.com'] },
  {
    type: 'bundle',
    objects: [
      {
        type: 'indicator',
        id: 'indicator--1',
        modified: '2026-01-01T00:00:00Z',
        valid_until: '2027-01-01T00:00:00Z',
        pattern_type: 'stix',
        pattern: "[ipv4-addr:value = '192.0.2.7' OR domain-name:value IN ('evil.example')]",
      },
    ],
  },
  { new: [{ scope: 'Ip', type: 'ban', value: '192.0.2.7', duration: '3h59m' }], deleted: null },
];
const WORDS = [
  '192.0.2.7',
  '0.0.0.0/0',
  '::/0',
  '2001:db8::1-2001:db8::9',
  'evil.example',
  '*.',
  '||',
  '^',
  '@@',
  '"',
  ',',
  '\t',
  '\n',
  '#',
  ';',
  '//',
  'address=/',
  "[ipv4-addr:value = '",
  ' OR ',
  'ip-dst',
  'Event',
  'Object',
  'Attribute',
  'response',
  'objects',
  'pattern',
  'metadata',
  'records',
];
/** Small: what a list may come to is part of the question. */
const LIMITS = { maxSize: 1 << 20, maxFound: 1 << 16, now: 0 };

const texts = (found: Collector, family: 'v4' | 'v6'): readonly string[] =>
  toModel(found[family].take()).map(formatRange);

/** What was collected, as a plain list, is collected again. */
async function stable(found: Collector): Promise<void> {
  const lines = [...texts(found, 'v4'), ...texts(found, 'v6')];
  if (lines.length === 0 || lines.length > 200) return;
  const again = await parseBody(Buffer.from(lines.join('\n')), { ...LIMITS, format: 'netset' });
  must(again.ok && again.found.bad.count === 0, 'ranges that cannot be read again');
  mustEqual([...texts(again.found, 'v4'), ...texts(again.found, 'v6')], lines, 'ranges change');
}

function namesAreNames(found: Collector): void {
  for (let i = 0; i < Math.min(found.names.size, 50); i++) {
    const name = found.names.nameAt(i);
    const read = canonicalName(name, 1);
    must(read.ok && read.value === name, `${JSON.stringify(name)} is collected, and is no name`);
  }
}

async function judge(outcome: ParseOutcome, format: string): Promise<void> {
  if (!outcome.ok) {
    must(outcome.reason !== '', 'refused without a word');
    return;
  }
  if (format !== 'auto') must(outcome.format === formatNamed(format), 'another format than was asked for');
  const { found } = outcome;
  must(found.v4.count + found.v6.count + found.names.size <= LIMITS.maxFound, 'more than the bound');
  must(
    found.bad.samples.every(({ text }) => text.length <= 81),
    'a sample without end',
  );
  namesAreNames(found);
  await stable(found);
}

async function check(input: Buffer): Promise<void> {
  for (const format of FEED_FORMATS) await judge(await parseBody(input, { ...LIMITS, format }), format);
}

function generate(random: Random): Buffer {
  if (!random.chance(3))
    return Buffer.from(JSON.stringify(bend(random, random.pick(DOCUMENTS), WORDS)) ?? '0');
  const lines = Array.from({ length: random.below(20) }, () => random.pick(WORDS));
  return Buffer.from(lines.join(random.pick(['\n', '', ' '])));
}

export const feeds: Target = {
  name: 'feeds',
  corpus: [
    ...bytes(...TEXTS),
    ...DOCUMENTS.map((document) => Buffer.from(JSON.stringify(document))),
    Buffer.from(`{"Event":`.repeat(10_000) + '{}'.padEnd(10_002, '}')),
    Buffer.from(`{"new":[${'['.repeat(20_000)}${']'.repeat(20_000)}]}`),
    gzipSync(TEXTS[0] ?? ''),
    Buffer.from(zipSync({ 'list.txt': Buffer.from(TEXTS[6] ?? '') })),
  ],
  words: bytes(...WORDS),
  maxLength: 131_072,
  generate,
  check,
};
