import { afterEach, beforeEach, expect, test } from 'vitest';
import { BridgeFdb, BridgePorts, releaseVeths } from '../../../src/kernel/bridge-fdb.js';
import { Bridges, Links } from '../../../src/kernel/netlink/links.js';
import { forwardingOf } from '../../../src/ruleset/bridge-forwarding.js';
import { makeNamespace, type Namespace } from './lab.js';

const MAC = '02:42:ac:11:00:02';
const FORMER_BOUND = 2_053;
let host: Namespace;
let bridges: Bridges;
let links: Links;
let ports: BridgePorts;
beforeEach(() => {
  host = makeNamespace('bridges');
  bridges = new Bridges({ namespace: host.path });
  links = new Links({ namespace: host.path });
  ports = new BridgePorts({ namespace: host.path });
});
afterEach(() => {
  bridges.close();
  links.close();
  ports.close();
  host[Symbol.dispose]();
});

const indexOf = (name: string): number => links.byName(name)?.index ?? 0;
/** A bridge with a veth, whose far end is `far`. */
function attached(): { readonly veth: number; readonly master: number } {
  host.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
  host.run('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'far');
  host.run('ip', 'link', 'set', 'veth0', 'master', 'br0');
  host.run('sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1'); // nothing is sent, so that nothing is learned
  for (const name of ['br0', 'veth0', 'far']) host.run('ip', 'link', 'set', name, 'up');
  return { veth: indexOf('veth0'), master: indexOf('br0') };
}
interface Shown {
  readonly learning: boolean;
  readonly flood: boolean;
}
function shown(): Shown {
  const [link] = JSON.parse(host.run('bridge', '-d', '-j', 'link', 'show', 'dev', 'veth0')) as Shown[];
  return { learning: link?.learning ?? false, flood: link?.flood ?? false };
}
interface Entry {
  readonly mac: string;
  readonly flags: readonly string[];
  readonly state: string;
}
/** Entries of the veth that are not the bridge's own. */
const entries = (): Entry[] =>
  (JSON.parse(host.run('bridge', '-j', 'fdb', 'show', 'brport', 'veth0')) as Entry[])
    .filter((e) => e.state !== 'permanent')
    .map(({ mac, flags, state }) => ({ mac, flags, state }));
const STICKY = { mac: MAC, flags: ['sticky'], state: 'static' };
const warnings: object[] = [];
const forwarding = (): BridgeFdb => new BridgeFdb(ports, { warn: (o) => warnings.push(o) });

test('a veth gets an entry, teaches its bridge nothing, and is released to what it was', async () => {
  const { veth, master } = attached();
  const before = shown();
  host.run('bridge', 'fdb', 'add', '02:42:00:00:00:99', 'dev', 'veth0', 'master', 'dynamic');
  const table = forwarding();
  table.apply(new Map([[veth, { master, mac: MAC, flood: false }]]));
  await table.settled();
  expect(shown()).toEqual({ learning: false, flood: false });
  expect(entries()).toEqual([STICKY]);
  table.apply(new Map([[veth, { master, mac: MAC, flood: true }]]));
  await table.settled();
  expect(shown()).toEqual({ learning: false, flood: true });
  table.apply(new Map([[veth, { master, mac: '02:42:ac:11:00:03', flood: true }]]));
  await table.settled();
  expect(entries()).toEqual([{ ...STICKY, mac: '02:42:ac:11:00:03' }]);
  expect(await releaseVeths(ports)).toEqual([veth]);
  expect(shown()).toEqual(before);
  expect(entries()).toEqual([]);
  expect(await releaseVeths(ports)).toEqual([]);
});

test('it is mended after another process, and after the veth has left its bridge and come back', async () => {
  const { veth, master } = attached();
  const table = forwarding();
  const wanted = new Map([[veth, { master, mac: MAC, flood: false }]]);
  table.apply(wanted);
  await table.settled();
  host.run('bridge', 'link', 'set', 'dev', 'veth0', 'learning', 'on');
  host.run('bridge', 'fdb', 'del', MAC, 'dev', 'veth0', 'master');
  table.invalidate();
  table.apply(wanted);
  await table.settled();
  expect(shown()).toEqual({ learning: false, flood: false });
  expect(entries()).toEqual([STICKY]);
  host.run('bridge', 'link', 'set', 'dev', 'veth0', 'learning', 'on');
  table.invalidate();
  table.apply(wanted);
  await table.settled();
  expect(shown()).toEqual({ learning: false, flood: false });
  host.run('ip', 'link', 'set', 'veth0', 'nomaster');
  host.run('ip', 'link', 'set', 'veth0', 'master', 'br0');
  expect(entries()).toEqual([]);
  table.moved(veth);
  table.apply(wanted);
  await table.settled();
  expect(shown()).toEqual({ learning: false, flood: false });
  expect(entries()).toEqual([STICKY]);
});

test('a veth that is gone is passed over, and what is no longer wanted is released', async () => {
  const { veth, master } = attached();
  const table = forwarding();
  const here = { master, mac: MAC, flood: false };
  table.apply(
    new Map([
      [9999, { ...here, mac: '02:42:ac:11:00:09' }],
      [veth, here],
    ]),
  );
  await table.settled();
  expect(entries()).toEqual([STICKY]);
  table.apply(new Map());
  await table.settled();
  expect(shown()).toEqual({ learning: true, flood: true });
  expect(entries()).toEqual([]);
  expect(warnings).toEqual([]);
});

test('veths that vanish at any moment fail no change, and leave the others as they should be', async () => {
  const { veth, master } = attached();
  const table = forwarding();
  const ROUNDS = 20;
  const AT_ONCE = 50;
  const batch = (lines: readonly string[]): string => host.feed(`${lines.join('\n')}\n`, 'ip', '-batch', '-');
  for (let round = 0; round < ROUNDS; round++) {
    const made = Array.from({ length: AT_ONCE }, (_, n) => `gone${n}`);
    batch(
      made.flatMap((name, n) => [
        `link add ${name} group 7 type veth peer name peer${n}`,
        // one has no bridge any more, one is on another
        ...(n % 5 === 0 ? [] : [`link set ${name} master br0`]),
      ]),
    );
    // iproute2 prints an empty object for each link of another group
    const all = JSON.parse(host.run('ip', '-j', 'link', 'show', 'group', '7')) as { ifindex?: number }[];
    const listed = all.flatMap((l) => l.ifindex ?? []);
    expect(listed).toHaveLength(AT_ONCE);
    const mac = (n: number): string => `02:42:ac:13:00:${n.toString(16).padStart(2, '0')}`;
    const theirs = listed.map((index, n) => [index, { master, mac: mac(n), flood: false }] as const);
    table.apply(new Map([...theirs, [veth, { master, mac: MAC, flood: round % 2 === 0 }]]));
    if (round % 2 === 0) await table.settled();
    batch(['link del group 7']);
    if (round % 3 === 0) table.invalidate();
    table.apply(new Map([...theirs, [veth, { master, mac: MAC, flood: round % 2 === 1 }]]));
    await table.settled();
    expect([round, shown(), entries()]).toEqual([
      round,
      { learning: false, flood: round % 2 === 1 },
      [STICKY],
    ]);
  }
  table.apply(new Map());
  await table.settled();
  expect([shown(), entries(), warnings]).toEqual([{ learning: true, flood: true }, [], []]);
});

test("the bridge's own MAC and that of another container are nobody else's entry", () => {
  const bound = [{ index: 1, master: 9, mac: MAC }];
  const others = [
    { index: 2, master: 9, mac: MAC },
    { index: 3, master: 9, mac: '02:42:00:00:00:01' },
    { index: 4, master: 8, mac: MAC },
  ];
  const own = new Set(['02:42:00:00:00:01']);
  const held = forwardingOf({ bound, others, own, isEnforced: (index) => index === 1 });
  expect(held).toEqual(
    new Map([
      [1, { master: 9, mac: MAC, flood: false }],
      [4, { master: 8, mac: MAC, flood: true }],
    ]),
  );
});

test('the bound on what a bridge learns, which an earlier version set, goes', () => {
  const { master } = attached();
  interface Learning {
    readonly fdb_max_learned?: number | undefined;
    readonly no_linklocal_learn?: number | undefined;
  }
  const data = (): Learning => {
    const text = host.run('ip', '-d', '-j', 'link', 'show', 'br0');
    const [link] = JSON.parse(text) as { linkinfo: { info_data: Learning } }[];
    const { fdb_max_learned, no_linklocal_learn } = link?.linkinfo.info_data ?? {};
    return { fdb_max_learned, no_linklocal_learn };
  };
  if (data().fdb_max_learned === undefined) return; // Linux < 6.7
  const before = data();
  const set = (bound: number): string =>
    host.run('ip', 'link', 'set', 'br0', 'type', 'bridge', 'fdb_max_learned', String(bound));
  host.run('ip', 'link', 'set', 'br0', 'type', 'bridge', 'no_linklocal_learn', '1');
  set(FORMER_BOUND);
  expect(bridges.release(master)).toBe(true);
  expect(data()).toEqual(before);
  expect(bridges.release(master)).toBe(false);
  set(7); // of the administrator's
  expect(bridges.release(master)).toBe(false);
  expect(data().fdb_max_learned).toBe(7);
  expect(bridges.release(9999)).toBe(false);
});
