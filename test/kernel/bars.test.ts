/** Members of the cut set as the kernel takes them, of every protocol. */

import { afterEach, beforeEach, expect, test } from 'vitest';
import { FlowBlocklist } from '../../src/kernel/delete-flows.js';
import type { Flow } from '../../src/ruleset/flow.js';
import { BARE_FLOW } from '../pure/bare-flow.js';
import { makeNamespace, type Namespace } from './netlink/lab.js';

let ns: Namespace;
let bars: FlowBlocklist;
beforeEach(() => {
  ns = makeNamespace('bars');
  for (const [set, family] of [
    ['DB-cut4', 'inet'],
    ['DB-cut6', 'inet6'],
  ] as const)
    ns.run('ipset', 'create', set, 'hash:ip,port,ip', 'family', family, 'timeout', '0', 'forceadd');
  const change = (verb: string, tail: string) => async (set: string, members: readonly string[]) =>
    void ns.feed(members.map((m) => `${verb} ${set} ${m}${tail} -exist\n`).join(''), 'ipset', 'restore');
  bars = new FlowBlocklist(
    { addToBlocklist: change('add', ' timeout 60'), removeFromBlocklist: change('del', '') },
    'DB',
    () => 0,
  );
});
afterEach(() => ns[Symbol.dispose]());

const ENDS = { 4: ['192.0.2.1', '192.0.2.2'], 6: ['2001:db8::1', '2001:db8::2'] } as const;
const flow = (family: 4 | 6, proto: number, sport?: number): Flow => {
  const [src, dst] = ENDS[family];
  const port = sport === undefined ? {} : { sport };
  return { ...BARE_FLOW, family, proto, mark: 0, orig: { src, dst, ...port }, reply: { src: dst, dst: src } };
};
const size = (set: string): number =>
  Number(/entries: (\d+)/.exec(ns.run('ipset', 'list', '-terse', set))?.[1]);

test.each([[4], [6]] as const)('IPv%i', async (family) => {
  const set = `DB-cut${family}`;
  const [src, dst] = ENDS[family];
  const flows = [flow(family, 6, 1), flow(family, 17, 2), flow(family, 132, 3), flow(family, 33, 4)];
  const icmp = flow(family, family === 4 ? 1 : 58);
  await bars.block([...flows, flow(family, 47), flow(family, 50), icmp], { tcp: 60, others: 60 });
  expect(size(set)).toBe(6);
  for (const m of ['tcp:1', 'udp:2', 'sctp:3', 'gre:0', 'esp:0', '33:0'])
    ns.run('ipset', 'test', set, `${src},${m},${dst}`);
  const all = Array.from({ length: 256 }, (_, proto) => flow(family, proto));
  await bars.block(all, { tcp: 60, others: 60 }); // a flow of whatever protocol fails nobody's cut
  await bars.lift(new Set([dst]));
  expect(size(set)).toBe(2);
});
