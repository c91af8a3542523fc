/** A port that becomes somebody's: what is left of an earlier holder of its addresses ends. */

import { expect, it } from 'vitest';
import { VethTable } from '../../../src/enforce/veth-table.js';
import { FlowBlocklist } from '../../../src/kernel/delete-flows.js';
import type { Kernel } from '../../../src/kernel/kernel.js';
import type { Binding } from '../../../src/ruleset/applied-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';
import { member } from '../ruleset/sample.js';

const OURS = '10.0.0.2';
const OTHER = '10.0.0.9';
const flow = (src: string, dst: string, more: Partial<Flow> = {}): Flow => ({
  ...BARE_FLOW,
  family: 4,
  proto: 17,
  mark: 0,
  orig: { src, dst, sport: 1, dport: 2 },
  reply: { src: dst, dst: src, sport: 2, dport: 1 },
  ...more,
});
const DNATED = {
  orig: { src: '192.0.2.9', dst: '192.0.2.1', sport: 1, dport: 8080 },
  reply: { src: OURS, dst: '192.0.2.9', sport: 80, dport: 1 },
};

function book() {
  const table = new Set<Flow>();
  const barred = new Set<string>();
  const kernel = {
    flows: {
      flows: async (family: 4 | 6) => (family === 4 ? [...table] : []),
      flowsAmong: async () => [...table],
      delete: (f: Flow) => table.delete(f),
    },
    addToBlocklist: async (_: string, members: readonly string[]) => void members.map((m) => barred.add(m)),
    removeFromBlocklist: async (_: string, members: readonly string[]) =>
      void members.map((m) => barred.delete(m)),
  } as unknown as Kernel;
  const bars = new FlowBlocklist(kernel, 'DB', () => 0);
  const ports = new VethTable({
    kernel,
    blocklist: bars,
    isManaged: () => true,
    foreign: undefined as never,
  });
  const binding = { ifindex: 7, container: 'one', ip4: OURS } as unknown as Binding;
  const map = { bindings: new Map([[7, binding]]) } as unknown as Parameters<typeof ports.purge>[0];
  return { table, ports, map, bars, barred };
}
const from = flow(OURS, OTHER);
const to = flow(OTHER, OURS);
const published = flow('', '', DNATED);
const opening = flow(OTHER, OURS, { proto: 6, tcp: { handshake: true, closed: false, pickedUp: false } });
const stands = flow(OTHER, OURS, { proto: 6, tcp: { handshake: false, closed: false, pickedUp: false } });
const elsewhere = flow(OTHER, '10.0.0.8');
const all = [from, to, published, opening, stands, elsewhere];

it('what it opened and what it answered, but no handshake that has just begun', async () => {
  const { table, ports, map } = book();
  ports.takeOver(new Map(), new Set(), new Set());
  for (const f of all) table.add(f);
  await ports.purge(map, new Set([7]));
  expect([...table]).toEqual([opening, elsewhere]);
  ports.settle(map, new Set());
  for (const f of all) table.add(f);
  await ports.purge(map, new Set([7]));
  expect(table.size).toBe(all.length); // it is the same one
});

it('what a container leaves behind ends when its veth goes, before or after a restart', async () => {
  const nothing = { bindings: new Map() } as unknown as Parameters<VethTable['purge']>[0];
  const after = async (begin: (b: ReturnType<typeof book>) => void): Promise<readonly Flow[]> => {
    const b = book();
    begin(b);
    for (const f of [from, to, published, elsewhere]) b.table.add(f);
    await b.ports.purge(nothing, new Set());
    return [...b.table];
  };
  expect(await after(({ ports, map }) => ports.settle(map, new Set()))).toEqual([elsewhere]);
  expect(await after(({ ports }) => ports.takeOver(new Map(), new Set(), new Set([OURS])))).toEqual([
    elsewhere,
  ]);
  expect(await after(({ ports }) => ports.takeOver(new Map(), new Set(), undefined))).toHaveLength(4);
});

it('the first rules of all: containers were open, and their policies decide what goes on', async () => {
  const { table, ports, map } = book();
  ports.takeOver(new Map(), new Set(), undefined);
  for (const f of all) table.add(f);
  await ports.purge(map, new Set([7]));
  expect([...table]).toEqual(all);
});

it('the first rules behind the closed base: an enforced container has no flow from before it, an observed one goes on', async () => {
  const { table, ports, map } = book();
  ports.takeOver(new Map(), new Set(), undefined, true);
  for (const f of all) table.add(f);
  await ports.purge(map, new Set());
  expect([...table]).toEqual(all);
  await ports.purge(map, new Set([7]));
  expect([...table]).toEqual([opening, elsewhere]);
});

it('who was free to speak until now: before any rule, or known and not enforced', () => {
  const { ports, map } = book();
  const port = { ifindex: 7, mac: '02:00:00:00:00:01', bridge: 'br-test' };
  const enforced = member(1, '', 'enforce', [port]);
  const observed = member(1, '', 'observe', [port]);
  ports.takeOver(new Map(), new Set(), undefined);
  expect([...ports.newlyHeld([enforced])]).toEqual([enforced.id]);
  ports.settle(map, new Set());
  expect([...ports.newlyHeld([observed])]).toEqual([]);
  expect([...ports.newlyHeld([enforced])]).toEqual([enforced.id]);
  ports.settle(map, new Set([7]));
  expect([...ports.newlyHeld([enforced])]).toEqual([]);
  // a new port was held until it was known
  expect([...ports.newlyHeld([member(2, '', 'enforce', [{ ...port, ifindex: 8 }])])]).toEqual([]);
});

it('who comes to an address may speak with whom the one before it may not; a TCP connection that was cut stays so', async () => {
  const { ports, map, bars, barred } = book();
  ports.takeOver(new Map(), new Set(), new Set());
  const tcp = flow(OURS, OTHER, { proto: 6 });
  const tunnel = flow(OURS, OTHER, { proto: 47 });
  await bars.block([from, to, elsewhere, tcp, tunnel], { tcp: 100, others: 100 });
  expect(barred.size).toBe(5);
  await ports.purge(map, new Set([7]));
  expect([...barred].sort()).toEqual([`${OURS},6:1,${OTHER}`, `${OTHER},17:1,10.0.0.8`]);
});
