/** What the Docker engine says: lists, inspects, the event stream. */
import { LineCutter, readEvent } from '../../../src/docker/docker-events.js';
import { isFullId } from '../../../src/docker/docker-values.js';
import { readContainers, readImageLabels, readInspect } from '../../../src/docker/read-containers.js';
import { readNetwork, readNetworks } from '../../../src/docker/read-networks.js';
import { resolverFacts } from '../../../src/docker/resolv-conf.js';
import { asRecord } from '../../../src/lib/json.js';
import { readLabels } from '../../../src/policy/labels.js';
import { containerInspect, ID, listItem, networkInspect } from '../../pure/docker/samples.js';
import { bend, parsedJson } from '../json.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

const DOCUMENTS: readonly unknown[] = [
  [listItem(), listItem({ Id: ID('b'), Labels: {}, State: 'created' })],
  [networkInspect()],
  networkInspect(),
  containerInspect(),
  { Id: `sha256:${ID('1')}`, Config: { Labels: { 'drawbridge.allow': 'a.example' } } },
  { Type: 'container', Action: 'start', Actor: { ID: ID('a'), Attributes: { name: 'web' } } },
  { Type: 'network', Action: 'connect', Actor: { ID: ID('f'), Attributes: { container: ID('a') } } },
];
const WORDS = [
  ID('a'),
  ID('f'),
  'drawbridge.allow',
  'drawbridge.mode',
  'off',
  '0.0.0.0/0',
  '172.18.0.2',
  'fd00::2%eth0',
  '::ffff:1.2.3.4',
  '02:42:ac:12:00:02',
  '80/tcp',
  '99999/udp',
  'container',
  'network',
  'connect',
  'bridge',
  'host',
];

/** Whether Docker's JSON has labels that nobody can read, item by item of those that count. */
function unreadable(json: unknown): readonly boolean[] {
  const items = Array.isArray(json) ? (json as readonly unknown[]) : [];
  return items
    .map(asRecord)
    .filter((item) => item !== undefined)
    .filter(({ Id }) => typeof Id === 'string' && isFullId(Id))
    .map(({ Labels }) => {
      const texts = asRecord(Labels);
      return Labels !== undefined && Labels !== null && !(texts && Object.values(texts).every(isText));
    });
}
const isText = (value: unknown): boolean => typeof value === 'string';

/** Labels that cannot be read never pass for none, and never let anything through. */
function listed(json: unknown): void {
  const bad = unreadable(json);
  for (const [i, { id, labels, image, published }] of (readContainers(json, []) ?? []).entries()) {
    must(isFullId(id), 'a container without a full id');
    must(Object.values(labels).every(isText), 'a label that is no text');
    for (const { containerPort } of published)
      must(containerPort >= 1 && containerPort <= 65_535, 'a published port that does not exist');
    const intent = readLabels({ labels, imageLabels: {}, image, imageId: '' }, []);
    if (intent.broken) must(intent.notes.length > 0, 'broken without a word');
    if (bad[i]) must(intent.broken, 'labels that cannot be read count as none');
  }
}

function network(json: unknown): void {
  const notes: string[] = [];
  readNetworks(json, notes);
  const read = readNetwork(json, notes);
  for (const [id, { mac }] of read?.members ?? []) {
    must(/^[0-9a-f]{64}$/.test(id), 'a member without a full id');
    must(read?.network.driver !== 'bridge' || mac !== '', 'a member of a bridge without a MAC');
  }
}

function stream(input: Buffer): void {
  const whole = new LineCutter(input.length + 1);
  const cut = new LineCutter(input.length + 1);
  const lines = whole.push(Buffer.concat([input, Buffer.from('\n')]));
  const at = input.length >> 1;
  const parts = [
    ...cut.push(input.subarray(0, at)),
    ...cut.push(input.subarray(at)),
    ...cut.push(Buffer.from('\n')),
  ];
  mustEqual(parts, lines, 'lines depend on how they arrive');
  for (const line of lines.slice(0, 100)) readEvent(line);
}

function check(input: Buffer): void {
  stream(input);
  const text = input.toString('utf8');
  const facts = resolverFacts(text);
  must(facts.embedded || !facts.hostAsked, 'asked from the host without an embedded resolver');
  const json = parsedJson(input);
  if (json === undefined) return;
  listed(json);
  network(json);
  const inspected = readInspect(json);
  if (inspected !== undefined) must(inspected.privileges.pid >= 0, 'no process id');
  const labels = readImageLabels(json);
  for (const label of Object.values(labels ?? {})) must(typeof label === 'string', 'a label that is no text');
}

export const inspect: Target = {
  name: 'inspect',
  corpus: [
    ...DOCUMENTS.map((document) => Buffer.from(JSON.stringify(document))),
    ...bytes('nameserver 127.0.0.11\nsearch a.example b\n# ExtServers: [10.0.0.2 host(127.0.0.53)]\n'),
  ],
  words: bytes(...WORDS, '"', '\n', '{', '[', 'null', 'host(', '# ExtServers: [', 'nameserver '),
  maxLength: 131_072,
  generate: (random: Random) =>
    Buffer.from(JSON.stringify(bend(random, random.pick(DOCUMENTS), WORDS)) ?? 'null'),
  check,
};
