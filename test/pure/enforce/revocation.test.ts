/** Which flows are looked at, and when again: after a repair none that was opened in the hole may stay. */

import { expect, it } from 'vitest';
import type { DelayedTrigger } from '../../../src/enforce/pass-trigger.js';
import { Revocation } from '../../../src/enforce/revocation.js';
import { FlowBlocklist } from '../../../src/kernel/delete-flows.js';
import type { Kernel } from '../../../src/kernel/kernel.js';
import type { AppliedState, Binding } from '../../../src/ruleset/applied-state.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';
import { input, member, shape } from '../ruleset/sample.js';

const CHECK = shape.marks.check?.mask ?? 0;
const nothing = (): void => undefined;
const SOURCE = '10.0.0.2';
const NEIGHBOUR = '10.0.0.3';
/** The member may reach it. */
const FRIEND = '10.0.0.4';
const flow = (sport: number): Flow => ({
  ...BARE_FLOW,
  family: 4,
  proto: 17,
  mark: 0,
  orig: { src: SOURCE, dst: '192.0.2.1', sport, dport: 5000 },
  reply: { src: '192.0.2.1', dst: SOURCE, sport: 5000, dport: sport },
});

function revoker(learn: (id: string, name: string) => Promise<void> = async () => undefined) {
  const table = new Set<Flow>();
  const due: DelayedTrigger[] = [];
  const marked: Flow[] = [];
  const resolved = new Set<string>();
  const barred: string[] = [];
  /** With the number of blocked pairs, and whether the flow was there. */
  const reset: (readonly [Flow, number, boolean])[] = [];
  const knownNames = new Set<Flow>();
  let broken = false;
  let isFull = false;
  const kernel = {
    flows: {
      flows: async (family: 4 | 6) => {
        if (broken) throw new Error('no answer');
        return family === 4 ? [...table] : [];
      },
      flowsAmong: async () => {
        if (broken) throw new Error('no answer');
        return [...table];
      },
      delete: (f: Flow) => table.delete(f),
      mark: (f: Flow) => marked.push(f) > 0,
    },
    addToBlocklist: async (_: string, members: readonly string[]) => {
      if (isFull) throw new Error('full');
      barred.push(...members);
    },
    hostAddresses: () => new Set(['10.0.0.1']),
    sockets: async () => [],
  } as unknown as Kernel;
  const revocation = new Revocation({
    shape,
    kernel,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    reset: async (flows) => {
      reset.push(...flows.map((f) => [f, barred.length, table.has(f)] as const));
    },
    blocklist: new FlowBlocklist(kernel, shape.prefix, () => 0),
    verified: { permits: () => true, knows: (f) => knownNames.has(f) },
    dns: { learn },
  });
  const port = { mac: '02:00:00:00:00:01', bridge: 'br-test' };
  const unchecked = member(1, 'named.example:9100, *.wild.example:9100, web.example', 'enforce', [
    { ...port, ifindex: 7, ip4: SOURCE },
  ]);
  const classes = planClasses(unchecked.policy.entries, () => [], {
    verify: true,
    quic: 'verify',
    ports: [443],
  });
  const m = { ...unchecked, classes };
  const free = [NEIGHBOUR, FRIEND].map((ip4, i) =>
    member(2 + i, '', 'off', [{ ...port, ifindex: 8 + i, ip4 }]),
  );
  /** The rules of a departed container stay for a while, and its address is another's by now. */
  const departed = member(4, '', 'off', [{ ...port, ifindex: 6, ip4: SOURCE }]);
  const bindings = new Map([m, ...free].flatMap((x) => x.veths.map((v) => [v.ifindex, { container: x.id }])));
  const state = {
    subjects: new Map([m, ...free, departed].map((x) => [x.id, x])),
    vethMap: { bindings },
    input: input(m),
    hosts: { late: new Set() },
    evaluator: {
      keeps: (by: Subject, f: Flow) =>
        by === m
          ? f.orig.dst === FRIEND || (f.mark & CHECK) !== 0 || resolved.has(f.orig.dst)
          : f.orig.dport !== 53,
      admits: (f: Flow) => f.orig.dport === 80,
    },
  } as unknown as AppliedState;
  const known = new Map([[7, {}]]) as unknown as ReadonlyMap<number, Binding>;
  return {
    table,
    id: m.id,
    due,
    marked,
    resolved,
    barred,
    reset,
    knownNames,
    revocation,
    fills: () => {
      isFull = true;
    },
    breaks: (is: boolean) => {
      broken = is;
    },
    run: (newlyHeld: ReadonlySet<string> = new Set(), wasOpen = false) => {
      revocation.owe(newlyHeld, wasOpen);
      return revocation.run(state, {
        known: wasOpen ? undefined : known,
        again: new Set(),
        later: (trigger) => void due.push(trigger),
      });
    },
  };
}

it('what a container sends from the address of one that has gone is judged by its own policy', async () => {
  const { run, table, revocation } = revoker();
  await run();
  revocation.distrust();
  table.add(flow(1));
  await run();
  expect(table.size).toBe(0);
});

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

it('a flow that a packet on its way creates again while it is deleted is deleted, too', async () => {
  const { run, table } = revoker();
  const remove = table.delete.bind(table);
  let packetsOnTheirWay = 1;
  table.delete = (f) => {
    const was = remove(f);
    if (packetsOnTheirWay-- > 0) table.add(flow(1));
    return was;
  };
  table.add(flow(1));
  await run();
  expect(packetsOnTheirWay).toBe(-1);
  expect(table.size).toBe(0);
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
  revocation.note({ triggers: [{ kind: 'changes' }] });
  await run();
  expect(table.size).toBe(1);
  revocation.note({ triggers: due });
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
  revocation.note({ triggers: due });
  await expect(run()).rejects.toThrow('no answer');
  table.add(flow(2));
  breaks(false);
  await run();
  expect(table.size).toBe(0);
});

it('an answer that opened a flow while no rule stood: it ends, unless it may be opened from either side', async () => {
  const { table, revocation, run, barred } = revoker();
  const inbound = (src: string, dport: number, tcp?: Flow['tcp']): Flow => ({
    ...BARE_FLOW,
    family: 4,
    proto: tcp === undefined ? 17 : 6,
    mark: 0,
    orig: { src, dst: SOURCE, sport: 5000, dport },
    reply: { src: SOURCE, dst: src, sport: dport, dport: 5000 },
    ...(tcp === undefined ? {} : { tcp }),
  });
  const seen = { handshake: false, closed: false, pickedUp: false };
  const middle = { handshake: false, closed: false, pickedUp: true };
  const ends = [
    inbound('192.0.2.1', 40_000),
    inbound('192.0.2.1', 40_000, seen),
    inbound('10.0.0.1', 40_000),
    inbound('10.0.0.1', 40_001, middle),
    inbound(NEIGHBOUR, 40_000),
    inbound(NEIGHBOUR, 40_001, middle),
  ];
  const stays = [
    inbound('192.0.2.1', 80),
    inbound('10.0.0.1', 40_000, seen),
    inbound(NEIGHBOUR, 40_000, seen),
    inbound(FRIEND, 40_000),
    inbound(FRIEND, 40_000, middle),
  ];
  await run();
  for (const f of [...ends, ...stays]) table.add(f);
  await run();
  expect(table.size).toBe(ends.length + stays.length); // nothing was tampered with
  revocation.distrust();
  await run();
  expect([...table]).toEqual(stays);
  expect(barred).toContain(`${SOURCE},6:40001,${NEIGHBOUR}`);
  expect(barred).toContain(`${SOURCE},17:40000,10.0.0.1`);
});

it('what an answer opened while a container was not enforced ends when it is, and once more a little later', async () => {
  const { table, revocation, run, due, id } = revoker();
  const answer: Flow = { ...flow(1), orig: flow(1).reply, reply: flow(1).orig };
  await run();
  table.add(answer);
  await run();
  expect(table.size).toBe(1);
  await run(new Set([id]));
  expect(table.size).toBe(0);
  table.add(answer);
  await run();
  expect(table.size).toBe(1);
  revocation.note({ triggers: due });
  await run();
  expect(table.size).toBe(0);
  expect(due).toHaveLength(1);
});

it('flows end although their stragglers cannot be barred, and the failure is told', async () => {
  const { table, run, fills } = revoker();
  table.add(flow(1));
  fills();
  await expect(run()).rejects.toThrow('full');
  expect(table.size).toBe(0);
});

it('a flow that the other side knows by another port is barred by that one, too', async () => {
  const members: string[] = [];
  const addToBlocklist = async (_: string, added: readonly string[]): Promise<void> =>
    void members.push(...added);
  const bars = new FlowBlocklist(
    { addToBlocklist, removeFromBlocklist: async () => undefined },
    shape.prefix,
    () => 0,
  );
  const own = flow(4000);
  const masqueraded = { ...own, reply: { ...own.reply, dst: '198.51.100.1', dport: 6000 } };
  await bars.block([own, { ...own, reply: { ...own.reply, dport: 5001 } }, masqueraded], {
    tcp: 9,
    others: 9,
  });
  const [to, from] = [`${SOURCE},17`, own.reply.src];
  expect(members).toEqual([4000, 4000, 5001, 4000].map((port) => `${to}:${port},${from}`));
});

/** To port 9100, by TCP. */
const to = (dst: string, more: Partial<Flow> = {}): Flow => ({
  ...flow(1),
  proto: 6,
  orig: { src: SOURCE, dst, sport: 1, dport: 9100 },
  reply: { src: dst, dst: SOURCE, sport: 9100, dport: 1 },
  ...more,
});

it('the first rules of all: a mark from before shows nothing, and goes from what goes on', async () => {
  const { table, run, marked } = revoker();
  const [forbidden, permitted] = [to('192.0.2.1', { mark: CHECK }), to(FRIEND, { mark: CHECK })];
  for (const f of [forbidden, permitted]) table.add(f);
  await run(new Set(), true);
  expect([...table]).toEqual([permitted]);
  expect(marked[0]).toEqual({ ...permitted, mark: 0 });
  table.add(forbidden);
  await run();
  expect([...table]).toEqual([permitted, forbidden]); // its mark is one of these rules
});

it('the first rules of all: a connection that opened since then goes on, checked or not', async () => {
  const { table, run, knownNames } = revoker();
  const isOpen = to('192.0.2.1', { mark: shape.marks.check?.open ?? 0 });
  const checked = to('192.0.2.2', { mark: CHECK });
  knownNames.add(checked);
  for (const f of [isOpen, checked, to('192.0.2.3', { mark: CHECK })]) table.add(f);
  await run(new Set(), true);
  expect([...table]).toEqual([isOpen, checked]);
});

it('a connection is reset while its flow is there, and nothing of it is blocked', async () => {
  const { table, run, reset, barred } = revoker();
  const forbidden = to('192.0.2.1');
  table.add(forbidden);
  await run();
  expect(reset).toEqual([[forbidden, 0, true]]);
  expect([table.size, barred.length]).toEqual([0, 1]);
});

it('the first rules of all: names are resolved for what only they may permit, by exact names for its port', async () => {
  const asked: string[] = [];
  const { table, run, resolved, id } = revoker(async (of, name) => {
    asked.push(`${of} ${name}`);
    resolved.add('192.0.2.7');
  });
  const web = to('192.0.2.8', { reply: { src: '192.0.2.8', dst: SOURCE, sport: 443, dport: 1 } });
  const [named, other] = [to('192.0.2.7'), to('192.0.2.9')];
  for (const f of [web, named, other]) table.add(f);
  await run(new Set(), true);
  expect(asked).toEqual([`${id} named.example`]);
  expect([...table]).toEqual([named]);
  await run(new Set(), false);
  expect(asked).toHaveLength(1);
});

it('a query of an observed container that is on its way is answered; its flow ends a little later', async () => {
  const { table, run, revocation, due } = revoker();
  const query: Flow = {
    ...flow(1),
    orig: { src: NEIGHBOUR, dst: '192.0.2.53', sport: 1, dport: 53 },
    reply: { src: '192.0.2.53', dst: NEIGHBOUR, sport: 53, dport: 1 },
  };
  const answered: Flow = { ...query, status: { ...query.status, seenReply: true } };
  for (const f of [query, answered]) table.add(f);
  await run(new Set(), true);
  expect([...table]).toEqual([query]);
  revocation.note({ triggers: due });
  await run();
  expect(table.size).toBe(0);
});
