import { execFileSync } from 'node:child_process';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import type { Exec } from '../../src/kernel/exec.js';
import { LinkCache, RouteMonitor } from '../../src/kernel/host-links.js';
import { Links } from '../../src/kernel/netlink/links.js';
import { observe } from '../../src/kernel/read-rules.js';
import { BACKSTOP_TABLE } from '../../src/ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../../src/ruleset/bridge-table.js';
import { compile } from '../../src/ruleset/compile.js';
import type { DesiredState, Veth } from '../../src/ruleset/desired-state.js';
import { IDENTITY_TABLE } from '../../src/ruleset/host-identity.js';
import { waitFor } from '../lab/process.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { makeNetns, type Netns } from './in-netns.js';

const ROUNDS = 10;
const AT_ONCE = 100;

let ns: Netns;
let links: Links;
let cache: LinkCache;
let monitor: RouteMonitor;
beforeEach(async () => {
  ns = makeNetns();
  ns.run('iptables', '-N', 'DOCKER-USER');
  ns.run('iptables', '-A', 'FORWARD', '-j', 'DOCKER-USER');
  links = new Links({ namespace: ns.path });
  cache = new LinkCache(links);
  monitor = new RouteMonitor(
    { onLink: (l) => cache.put(l), onLinkGone: (l) => cache.remove(l), onOverrun: () => cache.invalidate() },
    { namespace: ns.path },
  );
  await cache.all(new Set());
});
afterEach(() => {
  monitor.close();
  links.close();
  ns[Symbol.dispose]();
});

const batch = (lines: readonly string[]): void =>
  void execFileSync('ip', ['-n', ns.name, '-batch', '-'], { input: `${lines.join('\n')}\n` });

/** The host's ends of so many pairs, by name. Each half is a group of links, which the kernel removes in one go. */
async function makeVeths(): Promise<readonly string[]> {
  const names = Array.from({ length: AT_ONCE }, (_, n) => `host${n}`);
  batch(names.map((name, n) => `link add ${name} group ${1 + (n % 2)} type veth peer name inner${n}`));
  await waitFor('the new veths', () => names.every((name) => cache.indexOf(name) !== undefined));
  return names;
}
async function removeGroup(group: 1 | 2): Promise<void> {
  batch([`link del group ${group}`]);
  const first = `host${group - 1}`;
  await waitFor('the end of the veths', () => cache.indexOf(first) === undefined);
}
const portOf = (name: string, n: number): Veth => ({
  ifindex: cache.indexOf(name) ?? 0,
  mac: `02:42:ac:12:00:${n.toString(16).padStart(2, '0')}`,
  ip4: `172.18.0.${n}`,
  ip6: `fd00:18::${n.toString(16)}`,
  bridge: 'br-test',
});
const withPorts = (ports: readonly Veth[]): DesiredState =>
  compile({
    ...input(member(2, '10.1.0.0/16:5432', 'enforce', ports)),
    hostNet: { gates: [], exempt: [], builds: [], native: true },
  });

it(`${ROUNDS * AT_ONCE} veths vanish between listing, reading and applying: no apply fails, and nothing of them is left`, async () => {
  let isVanishing = false;
  let listings = 0;
  /** Half of the veths go when nft has named them in its listing, before the listing is read. */
  const run: Exec = async (file, args, options) => {
    const result = await ns.exec(file, args, options);
    if (file !== 'nft' || args[0] !== '-j' || !args.includes('bridge')) return result;
    listings += 1;
    if (isVanishing) await removeGroup(2);
    isVanishing = false;
    return result;
  };
  const plane = new Dataplane(run, shape, (name) => cache.indexOf(name));
  await plane.apply(withPorts([]));
  for (let round = 0; round < ROUNDS; round++) {
    const ports = (await makeVeths()).map(portOf);
    await plane.apply(withPorts(ports.slice(AT_ONCE / 4)));
    await removeGroup(1);
    await plane.apply(withPorts(ports)); // the desired state still has those that have gone
    plane.invalidate();
    isVanishing = true;
    await plane.apply(withPorts([]));
  }
  expect(listings).toBe(2 * ROUNDS); // each listing with names of veths that have gone was repeated
  const left = await observe(ns.exec, 'DB', (name) => cache.indexOf(name));
  expect(left.bridge.elements).toEqual(withPorts([]).bridge);
});

it.each([
  ['together', 0, 1],
  ['one by one, next to a large one of another program', 5_001, 2],
] as const)(
  'a set that is destroyed between the listing and the reading of it fails no plan: sets are read %s',
  async (_, others, expected) => {
    for (const name of ['DB-stays', 'DB-goes']) ns.run('ipset', 'create', name, 'hash:ip');
    const added = Array.from({ length: others }, (__, n) => `add theirs 10.0.${n >> 8}.${n & 255}\n`);
    await ns.exec('ipset', ['restore'], { input: ['create theirs hash:ip\n', ...added].join('') });
    let listings = 0;
    const run: Exec = async (file, args, options) => {
      const result = await ns.exec(file, args, options);
      if (file === 'ipset' && args[0] === 'list' && ++listings === 1) ns.run('ipset', 'destroy', 'DB-goes');
      return result;
    };
    const { stages } = await new Dataplane(run, shape, (name) => cache.indexOf(name)).plan(withPorts([]));
    expect(stages.flat().filter(({ script }) => /^destroy DB-stays$/m.test(script))).toHaveLength(1);
    expect(JSON.stringify(stages)).not.toContain('DB-goes');
    expect(listings).toBe(expected);
  },
);

it.each([
  ['bridge', `bridge ${BRIDGE_TABLE}`],
  ['backstop', BACKSTOP_TABLE],
  ['identity', IDENTITY_TABLE],
] as const)(
  'the table of %s is deleted between the listing of tables and its reading: it is absent',
  async (part, table) => {
    const plane = new Dataplane(ns.exec, shape, (name) => cache.indexOf(name));
    await plane.apply(withPorts([]));
    let isThere = true;
    const run: Exec = async (file, args, options) => {
      const result = await ns.exec(file, args, options);
      if (isThere && file === 'nft' && args[0] === 'list') {
        isThere = false;
        ns.run('nft', 'delete', 'table', ...table.split(' '));
      }
      return result;
    };
    const seen = await observe(run, 'DB', (name) => cache.indexOf(name));
    expect(isThere).toBe(false);
    const { bridge, backstop, identity } = seen;
    expect({ bridge: bridge.exists, backstop: backstop.exists, identity: identity.exists }).toEqual({
      bridge: true,
      backstop: true,
      identity: true,
      [part]: false,
    });
  },
);
