/** Elements of the bridge table written over netlink: the resulting table is the same as with nft and the same input. */
import { spawn } from 'node:child_process';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import { type Exec, isOwnProcess } from '../../src/kernel/exec.js';
import { u32le } from '../../src/kernel/netlink/netlink-codec.js';
import { NftElements } from '../../src/kernel/netlink/nft-codec.js';
import { withFastElements } from '../../src/kernel/nft-text.js';
import { observe } from '../../src/kernel/read-rules.js';
import { compile } from '../../src/ruleset/compile.js';
import type { DesiredInput } from '../../src/ruleset/desired-state.js';
import { waitFor } from '../lab/process.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { makeNetns, type Netns } from './in-netns.js';

let fast: Netns;
let slow: Netns;
let elements: NftElements;
const ran: string[] = [];
beforeAll(() => {
  fast = makeNetns();
  slow = makeNetns();
  elements = new NftElements({ namespace: fast.path });
});
afterAll(() => {
  elements?.close();
  for (const ns of [fast, slow]) ns?.[Symbol.dispose]();
});

const counting: Exec = (file, args, options) => {
  if (file === 'nft' && args[0] === '-f') ran.push(options?.input ?? '');
  return fast.exec(file, args, options);
};
const listed = (ns: Netns): string => ns.run('nft', 'list', 'table', 'bridge', 'drawbridge');
const none = () => undefined;

/** States with veths of containers and unattributed veths, in both modes of unattributed veths. */
function states(): readonly DesiredInput[] {
  const members = [
    member(2, '10.1.0.0/16'),
    member(17, 'a.org', 'observe'),
    member(300, '', 'off'),
    member(4000, ''),
  ];
  const base = input();
  const busy = (from: typeof members, unattributed: readonly number[]): DesiredInput => {
    const ports = [...from.flatMap((m) => m.veths.map((p) => p.ifindex)), ...unattributed];
    const bridges = base.bridges.map((b) => ({ ...b, veths: ports }));
    return { ...base, subjects: from, bridges, unattributed, exempt: [901] };
  };
  return [
    busy(members, [900]),
    { ...busy(members.slice(1), [902]), unattributedMode: 'enforce' },
    busy([...members].reverse(), []),
    base,
  ];
}

it('comes to the same table, and to what is desired, without a run of nft', async () => {
  const planes = {
    fast: new Dataplane(withFastElements(counting, elements), shape, none),
    slow: new Dataplane(slow.exec, shape, none),
  };
  const base = compile(input());
  await planes.fast.apply(base);
  await planes.slow.apply(base);
  expect(ran).toHaveLength(2); // the tables themselves
  const empty = listed(fast);
  for (const state of states()) {
    const desired = compile(state);
    await planes.fast.apply(desired);
    await planes.slow.apply(desired);
    const table = listed(fast);
    expect(words(table)).toEqual(words(listed(slow)));
    const { bridge } = await observe(fast.exec, 'DB', none);
    expect(bridge.elements).toEqual(desired.bridge);
    expect(table !== empty).toBe(state.subjects.length > 0);
  }
  expect(ran).toHaveLength(2);
});

/** In an order of their own: nft lists the elements of a hash as its buckets have them. */
const words = (table: string): string[] => table.split(/[\s,{}]+/).sort();

it('nft monitor names this process, whose changes are no reason to look again', async () => {
  const monitor = spawn('nsenter', [`--net=${fast.path}`, 'nft', 'monitor']);
  let lines = '';
  monitor.stdout.on('data', (d: Buffer) => {
    lines += d.toString();
  });
  const change = (verb: 'add' | 'delete') =>
    elements.change('drawbridge', [{ verb, set: 'strict', elements: [{ key: u32le(77) }] }]);
  try {
    // it listens from some moment on
    await waitFor('the change', () => {
      change('add');
      change('delete');
      return /element bridge drawbridge strict[\s\S]*# new generation/.test(lines);
    });
  } finally {
    monitor.kill();
  }
  const writers = [...lines.matchAll(/# new generation \d+ by process (\d+) /g)].map((m) => Number(m[1]));
  expect(writers.filter((pid) => !isOwnProcess(pid))).toEqual([]);
});

it('nft says what is wrong with a change that the kernel refuses, and nothing of it stands', async () => {
  const before = listed(fast);
  const run = withFastElements(counting, elements);
  const script =
    'add element bridge drawbridge strict { 77 }\ndelete element bridge drawbridge macs { 77 . 02:00:00:00:00:01 }\ndelete element bridge drawbridge enf4 { 10.9.9.9 }\n';
  const result = await run('nft', ['-f', '-'], { input: script });
  expect(result.code).not.toBe(0);
  expect(result.stderr).toMatch(/delete element bridge drawbridge macs/);
  expect(ran.at(-1)).toBe(script);
  expect(listed(fast)).toBe(before);
  // The kernel answered each message of the refused batch. None of these answers may count for the next batch.
  const runs = ran.length;
  for (const verb of ['add', 'delete'])
    await run('nft', ['-f', '-'], { input: `${verb} element bridge drawbridge strict { 78 }\n` });
  expect(ran).toHaveLength(runs);
  expect(listed(fast)).toBe(before);
});

it('finds a table by its family and name', () => {
  const ns = makeNetns();
  const own = new NftElements({ namespace: ns.path });
  try {
    expect(own.hasTable('bridge', 'drawbridge')).toBe(false);
    ns.run('nft', 'add', 'table', 'inet', 'drawbridge');
    expect(own.hasTable('bridge', 'drawbridge')).toBe(false);
    ns.run('nft', 'add', 'table', 'bridge', 'drawbridge');
    expect(own.hasTable('bridge', 'drawbridge')).toBe(true);
  } finally {
    own.close();
    ns[Symbol.dispose]();
  }
});

it('reads what the quotas of one table have counted, and nothing else', async () => {
  using ns = makeNetns();
  using kernel = new NftElements({ namespace: ns.path });
  expect(await kernel.quotas('drawbridge')).toEqual(new Map());
  ns.run(
    'nft',
    `table bridge drawbridge {
      quota q-one { over 5000000000 bytes used 4294967301 bytes }
      quota q-two { over 100 bytes }
      counter q-three { packets 1 bytes 7 }
      chain forward { type filter hook forward priority 0; }
    }
    table bridge other { quota q-four { over 100 bytes used 3 bytes }; }
    table ip drawbridge { quota q-five { over 100 bytes used 3 bytes }; }`,
  );
  expect(await kernel.quotas('drawbridge')).toEqual(
    new Map([
      ['q-one', 4_294_967_301],
      ['q-two', 0],
    ]),
  );
});
