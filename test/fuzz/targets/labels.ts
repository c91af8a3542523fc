/** drawbridge.* labels: whatever they say, a fault denies, and an image adds nothing. */
import type { ContainerFacts } from '../../../src/policy/container.js';
import { parseEntries } from '../../../src/policy/entry-parse.js';
import { readLabels } from '../../../src/policy/labels.js';
import type { List, Mode, Policy } from '../../../src/policy/policy.js';
import { compilePolicy } from '../../../src/policy/policy-compile.js';
import type { Random } from '../random.js';
import { bytes, must, type Target } from '../target.js';
import { entryTexts, entryWords, generateEntries } from './entries.js';

const KEYS = [
  'allow',
  'lists',
  'list',
  'mode',
  'limit',
  'ask',
  '',
  'Allow',
  'unknown',
  '__proto__',
  'allow ',
];
const VALUES = [
  'npm, github',
  'enforce',
  'observe',
  'off',
  'off\n',
  'rate=20mbit, connections=200, quota=5GB/day',
  '30s',
  '1h30m',
  '0',
  '',
  ' ',
  'list:npm',
  'constructor=1',
];

/** KEY=VALUE pairs with a zero byte between: a label may hold lines. */
function labelsOf(input: Buffer): Record<string, string> {
  const labels: Record<string, string> = Object.create(null);
  for (const pair of input.toString('utf8').split('\0').slice(0, 50)) {
    const at = pair.indexOf('=');
    labels[at < 0 ? pair : pair.slice(0, at)] = at < 0 ? '' : pair.slice(at + 1);
  }
  return labels;
}

function listNamed(name: string, allow: string): readonly [string, List] {
  const parsed = parseEntries(allow);
  return [name, { name, source: 'folder', allow: parsed.ok ? parsed.value : [] }];
}
const LISTS = new Map([listNamed('npm', 'registry.npmjs.org'), listNamed('github', '.github.com, list:npm')]);

function policy(
  labels: Record<string, string>,
  imageLabels: Record<string, string> | undefined,
  mode: Mode,
): Policy {
  const facts: ContainerFacts = {
    id: 'c0ffee',
    name: 'web',
    image: 'shop:1',
    imageId: 'sha256:1',
    labels,
    ...(imageLabels && { imageLabels }),
    state: 'running',
    networkMode: 'front',
    endpoints: [],
    published: [],
  };
  const settings = { default: mode, baseline: [], trustImages: [] };
  const none = { networks: new Map(), modes: new Map(), grants: [] };
  return compilePolicy({ facts, lists: LISTS, settings, now: 0, ...none });
}

const keysOf = ({ entries }: Policy): Set<string> => new Set(entries.map(({ entry }) => entry.canonical));

function denied(read: Policy, what: string): void {
  must(read.entries.length === 0, `${what}: entries are allowed`);
  must(read.mode === 'enforce', `${what}: ${read.mode}, not enforced`);
}

/** Told to people on terminals: bounded, and without control characters. */
function tame({ notes }: Policy): void {
  for (const { detail, remedy } of notes) {
    must(detail.length < 1200 && remedy.length < 1200, 'a note without end');
    must(!/[\p{Cc}\p{Cf}]/u.test(detail + remedy), 'a note with control characters');
  }
}

function check(input: Buffer): void {
  const labels = labelsOf(input);
  const own = policy(labels, {}, 'observe');
  const { broken, hasEntries } = readLabels({ labels, imageLabels: {}, image: 'shop:1', imageId: '' }, []);
  tame(own);
  if (broken) denied(own, 'a broken label');
  if (hasEntries)
    must(own.mode !== 'observe' || own.modeSource.kind === 'label', 'entries that do not enforce');
  denied(policy({ ...labels, 'drawbridge.allow': '127.1' }, {}, 'off'), 'one more fault');
  for (const image of [labels, undefined]) {
    const fromImage = policy(labels, image, 'enforce');
    denied(fromImage, image ? "the image's own labels" : 'labels of an unknown image');
    tame(fromImage);
  }
  // Whatever else an image says, it takes entries away at most.
  const half = Object.fromEntries(Object.entries(labels).filter((_, i) => i % 2 === 0));
  const mixed = keysOf(policy(labels, half, 'observe'));
  if (!broken) for (const key of mixed) must(keysOf(own).has(key), "an image's labels added an entry");
}

function generate(random: Random): Buffer {
  const pairs = Array.from({ length: 1 + random.below(4) }, () => {
    const value = random.chance(2) ? random.pick(VALUES) : generateEntries(random);
    return `drawbridge.${random.pick(KEYS)}=${value}`;
  });
  return Buffer.from(pairs.join('\0'));
}

export const labels: Target = {
  name: 'labels',
  corpus: bytes(
    ...entryTexts.map((text) => `drawbridge.allow=${text}`),
    ...VALUES.map((value) => `drawbridge.mode=${value}\0drawbridge.lists=npm\0other=1`),
    'drawbridge.limit=rate=20mbit, quota=5GB/day\0drawbridge.ask=30s\0drawbridge.allow=a.org',
  ),
  words: bytes(...entryWords, ...VALUES, ...KEYS.map((key) => `\0drawbridge.${key}=`), '\u202e', '\x1b[2J'),
  maxLength: 131_072,
  generate,
  check,
};
