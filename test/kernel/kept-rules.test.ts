/** Rules that a service has read, in a file for its next start: what makes the next start read them again. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import type { Exec } from '../../src/kernel/exec.js';
import { NftElements } from '../../src/kernel/netlink/nft-codec.js';
import { KeptRules, type Observed, observe } from '../../src/kernel/read-rules.js';
import { VERSION } from '../../src/lib/version.js';
import { compile } from '../../src/ruleset/compile.js';
import type { Allowance, DesiredState } from '../../src/ruleset/desired-state.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { makeNetns, type Netns } from './in-netns.js';

const none = () => undefined;
const abilities = { isInNft: true, nft: { identifies: true, queues: true } };
const desired = compile(input(member(2, 'api.github.com, any:443'), member(17, 'a.org', 'observe')));

let ns: Netns;
let elements: NftElements;
let folder: string;
let path: string;
let observed: Observed;
let reads: string[];
let cgroup: string | undefined;
const counting: Exec = (file, args, options) => {
  reads.push([file, ...args].join(' '));
  return ns.exec(file, args, options);
};
const keptRules = (of: Partial<{ prefix: string }> = {}): KeptRules =>
  new KeptRules({ path, prefix: 'DB', objectOf: () => cgroup, ...of });
const read = (rules = keptRules()) => rules.read(elements.generation());

beforeEach(async () => {
  ns = makeNetns();
  ns.run('iptables', '-N', 'DOCKER-USER');
  ns.run('iptables', '-A', 'FORWARD', '-j', 'DOCKER-USER');
  ns.run('iptables', '-A', 'DOCKER-USER', '-s', '10.9.9.9', '-j', 'DROP');
  await new Dataplane(ns.exec, shape, none).apply(desired);
  elements = new NftElements({ namespace: ns.path });
  folder = mkdtempSync(join(tmpdir(), 'drawbridge-kept-'));
  path = join(folder, 'kernel-rules');
  observed = await observe(ns.exec, 'DB', none);
  cgroup = '7';
  keptRules().write({ rules: observed, abilities }, elements.generation());
  reads = [];
});
afterEach(() => {
  elements.close();
  ns[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

/** The first pass of a start. */
async function start(to: DesiredState): Promise<boolean> {
  const plane = new Dataplane(counting, shape, none);
  const at = elements.generation();
  const kept = keptRules().read(at);
  plane.readAhead(() => elements.generation(), kept && { rules: kept.rules, at });
  return (await plane.apply(to)).changed;
}
const isRead = (): boolean => reads.some((r) => /^(ip6?tables-save|nft .*list)/.test(r));

it('a start reads the sets only, and finds nothing to do', async () => {
  expect(await start(desired)).toBe(false);
  expect(isRead()).toBe(false);
  expect(reads.some((r) => r.startsWith('ipset'))).toBe(true);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(folder)).toEqual(['kernel-rules']);
});

it('a start applies what is wanted otherwise, and keeps the rules of other programs', async () => {
  const other = compile(input(member(2, 'api.github.com')));
  expect(await start(other)).toBe(true);
  expect(isRead()).toBe(false);
  const now = await observe(ns.exec, 'DB', none);
  expect(new Dataplane(ns.exec, shape, none).planFrom(now, other).stages).toEqual([]);
  expect(ns.run('iptables', '-S', 'DOCKER-USER')).toContain('-s 10.9.9.9');
});

it('it has what was read, without the text of rules that are known by their hashes', () => {
  const kept = read();
  expect(kept?.abilities).toEqual(abilities);
  expect(kept?.rules.bridge).toEqual(observed.bridge);
  expect(kept?.rules.backstop).toEqual(observed.backstop);
  expect(kept?.rules.identity).toEqual(observed.identity);
  expect(kept?.rules.nftTables).toContain('table bridge drawbridge\n');
  const [now, was] = [kept?.rules.tables.get(4), observed.tables.get(4)];
  expect(now?.get('filter')?.get('DOCKER-USER')?.at(-1)).toEqual(
    was?.get('filter')?.get('DOCKER-USER')?.at(-1),
  );
  const hashes = (t: typeof now) =>
    [...(t?.get('filter') ?? [])].map(([c, rules]) => [c, rules.map((r) => r.hash)]);
  expect(hashes(now)).toEqual(hashes(was));
  expect(now?.get('mangle')).toEqual(was?.get('mangle'));
});

it('the first pass of a start knows the tables of nftables without a process', async () => {
  const plane = new Dataplane(counting, shape, none);
  const at = elements.generation();
  const kept = keptRules().read(at);
  plane.readAhead(() => elements.generation(), kept && { rules: kept.rules, at });
  await plane.apply(desired);
  expect(isRead()).toBe(false);
  expect(plane.hostRules()?.nftTables).toBe(observed.nftTables);
  expect(plane.hostRules()?.filters.get(4)?.has('DOCKER-USER')).toBe(true);
});

it.each([
  ['iptables', '-F', 'DB-FORWARD'],
  ['ip6tables', '-F', 'OUTPUT'],
  ['iptables', '-A', 'DOCKER-USER', '-s', '10.9.9.8', '-j', 'ACCEPT'],
  ['nft', 'delete', 'table', 'bridge', 'drawbridge'],
])('a start reads the rules after a change while the service was away: %s %s %s', async (...command) => {
  ns.run(...(command as [string, ...string[]]));
  expect(read()).toBeUndefined();
  await start(desired);
  expect(isRead()).toBe(true);
  const now = await observe(ns.exec, 'DB', none);
  expect(new Dataplane(ns.exec, shape, none).planFrom(now, desired).stages).toEqual([]);
});

it('a change between the reading of the file and the first pass counts, too', async () => {
  const plane = new Dataplane(counting, shape, none);
  const at = elements.generation();
  const kept = keptRules().read(at);
  ns.run('iptables', '-F', 'DB-FORWARD');
  plane.readAhead(() => elements.generation(), kept && { rules: kept.rules, at });
  expect((await plane.apply(desired)).changed).toBe(true);
  expect(isRead()).toBe(true);
});

it('a set that has lost members is found by a start that does not read the rules', async () => {
  const [name] = [...observed.sets].find(([, set]) => !set.timed && set.members.size > 0) ?? [];
  ns.run('ipset', 'flush', name ?? '');
  expect(await start(desired)).toBe(true);
  expect(isRead()).toBe(false);
  expect((await observe(ns.exec, 'DB', none)).sets.get(name ?? '')).toEqual(observed.sets.get(name ?? ''));
});

it('it does not count for another prefix, for another object of a cgroup, or when it is damaged', () => {
  expect(read()).toBeDefined();
  expect(read(keptRules({ prefix: 'XY' }))).toBeUndefined();
  const senders = [{ chain: 'senders', cgroup: 'system.slice/docker-1.scope', mark: 1, hasZone: false }];
  const identity = { ...observed.identity, senders };
  keptRules().write({ rules: { ...observed, identity }, abilities }, elements.generation());
  expect(read()).toBeDefined();
  cgroup = '8';
  expect(read()).toBeUndefined();
  cgroup = '7';
  const whole = readFileSync(path);
  for (const at of [0, 40, whole.length - 1]) {
    const damaged = Buffer.from(whole);
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    writeFileSync(path, damaged);
    expect(read()).toBeUndefined();
  }
  writeFileSync(path, whole.subarray(0, 100));
  expect(read()).toBeUndefined();
  writeFileSync(path, whole);
  expect(read()).toBeDefined();
});

it('it does not count for another build of the program, whose rules may have other tables', async () => {
  // as a build has written it that had no table for ARP
  const { arp: _, ...former } = observed;
  keptRules().write({ rules: former as Observed, abilities }, elements.generation());
  const { origin, ...rest } = deserialize(readFileSync(path).subarray(32)) as { origin: object };
  const body = serialize({ ...rest, origin: { ...origin, program: 'another', version: VERSION } });
  writeFileSync(path, Buffer.concat([createHash('sha256').update(body).digest(), body]));
  expect(await start(desired)).toBe(false);
  expect(isRead()).toBe(true);
});

it('nothing is kept while there are quotas, which count without a change of the rules', () => {
  rmSync(path);
  const allowances = new Map<string, Allowance>([['q-1', { bytes: 10, used: 3 }]]);
  const bridge = { ...observed.bridge, elements: { ...observed.bridge.elements, allowances } };
  keptRules().write({ rules: { ...observed, bridge }, abilities }, elements.generation());
  expect(readdirSync(folder)).toEqual([]);
});
