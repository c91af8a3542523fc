/** Which flows are looked at, and when again: after a repair none that was opened in the hole may stay. */
import { expect, it } from 'vitest';
import type { FlowFacts } from '../../../src/control/cut.js';
import type { InForce } from '../../../src/control/enforcer.js';
import type { KernelPort } from '../../../src/control/kernel-port.js';
import { Revocation } from '../../../src/control/revocation.js';
import { input, member, shape } from '../desired/sample.js';

const nothing = (): void => undefined;
const SOURCE = '10.0.0.2';
const flow = (sport: number): FlowFacts => ({
  family: 4,
  proto: 17,
  mark: 0,
  orig: { src: SOURCE, dst: '192.0.2.1', sport, dport: 5000 },
  reply: { src: '192.0.2.1', dst: SOURCE, sport: 5000, dport: sport },
});

function revoker() {
  const table = new Set<FlowFacts>();
  const due: string[] = [];
  let broken = false;
  const kernel = {
    flows: {
      flows: async (family: 4 | 6) => {
        if (broken) throw new Error('no answer');
        return family === 4 ? [...table] : [];
      },
      delete: (f: FlowFacts) => table.delete(f),
      mark: () => true,
    },
    addCut: async () => undefined,
    hostAddresses: () => new Set(['10.0.0.1']),
    sockets: async () => [],
  } as unknown as KernelPort;
  const revocation = new Revocation({
    shape,
    kernel,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    lookAgain: (reason) => void due.push(reason),
  });
  const m = member(1, '', 'enforce', [
    { ifindex: 7, mac: '02:00:00:00:00:01', ip4: SOURCE, bridge: 'br-test' },
  ]);
  const state = {
    members: new Map([[m.id, m]]),
    input: input(m),
    hosts: { late: new Set() },
    judge: { keeps: () => false, admits: (f: FlowFacts) => f.orig.dport === 80 },
  } as unknown as InForce;
  const known = new Map([[7, {}]]) as unknown as Parameters<typeof revocation.run>[1];
  return {
    table,
    due,
    revocation,
    breaks: (is: boolean) => {
      broken = is;
    },
    run: () => revocation.run(state, known, new Set()),
  };
}

it('flows of a policy that stays are looked at once', async () => {
  const { run, table, due } = revoker();
  table.add(flow(1));
  await run();
  expect(table.size).toBe(0);
  table.add(flow(2));
  await run();
  expect(table.size).toBe(1);
  expect(due).toEqual([]);
});

it('after a repair all are looked at, and once more a little later, for what was on its way', async () => {
  const { run, table, due, revocation } = revoker();
  await run();
  revocation.distrust();
  table.add(flow(1));
  await run();
  expect(table.size).toBe(0);
  expect(due).toHaveLength(1);
  table.add(flow(2));
  revocation.due(['something else']);
  await run();
  expect(table.size).toBe(1);
  revocation.due(due);
  await run();
  expect(table.size).toBe(0);
  table.add(flow(3));
  await run();
  expect(table.size).toBe(1);
  expect(due).toHaveLength(1);
});

it('a look that fails is owed until one holds', async () => {
  const { run, table, due, revocation, breaks } = revoker();
  await run();
  revocation.distrust();
  table.add(flow(1));
  breaks(true);
  await expect(run()).rejects.toThrow('no answer');
  expect(revocation.owed).toBe(true);
  breaks(false);
  await run();
  expect([table.size, revocation.owed, due.length]).toEqual([0, false, 1]);
  breaks(true);
  revocation.due(due);
  await expect(run()).rejects.toThrow('no answer');
  table.add(flow(2));
  breaks(false);
  await run();
  expect(table.size).toBe(0);
});

it('an answer that opened a flow while no rule stood: it ends; what the host opens, or what may come in, stays', async () => {
  const { table, revocation, run } = revoker();
  const inbound = (src: string, dport: number): FlowFacts => ({
    family: 4,
    proto: 17,
    mark: 0,
    orig: { src, dst: SOURCE, sport: 5000, dport },
    reply: { src: SOURCE, dst: src, sport: dport, dport: 5000 },
  });
  const [answer, host, published] = [
    inbound('192.0.2.1', 40_000),
    inbound('10.0.0.1', 40_000),
    inbound('192.0.2.1', 80),
  ];
  await run();
  for (const f of [answer, host, published]) table.add(f);
  await run();
  expect(table.size).toBe(3); // nothing was tampered with
  revocation.distrust();
  await run();
  expect([...table]).toEqual([host, published]);
});
