/** Flows that a container of the host's network had opened before its rules were installed: sorted by its sockets. */

import { expect, it } from 'vitest';
import { isFrom, sortUnmarkedFlows } from '../../../src/enforce/earlier-flows.js';
import { Revocation } from '../../../src/enforce/revocation.js';
import { FlowBlocklist } from '../../../src/kernel/delete-flows.js';
import type { Kernel } from '../../../src/kernel/kernel.js';
import type { SocketEnds } from '../../../src/kernel/sockets.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { identityMark } from '../../../src/ruleset/marks.js';
import { BARE_FLOW } from '../bare-flow.js';
import { input, member, shape } from '../ruleset/sample.js';

const HOST = '198.51.100.1';
const GOOD = '192.0.2.1';
const BAD = '192.0.2.66';
const to = (dst: string, sport: number, proto = 6): Flow => ({
  ...BARE_FLOW,
  family: 4,
  proto,
  mark: 0,
  orig: { src: HOST, dst, sport, dport: 443 },
  reply: { src: dst, dst: HOST, sport: 443, dport: sport },
});
const connected = (dst: string, port: number): SocketEnds => ({
  proto: 6,
  address: HOST,
  port,
  peer: { address: dst, port: 443 },
});
const judge = { keeps: (_: Subject, f: Flow) => f.orig.dst === GOOD };
const m: Subject = {
  ...member(1, GOOD, 'enforce', []),
  host: { cgroups: [{ path: 'docker/x', object: 'o1', nft: undefined }] },
} as unknown as Subject;

it('what no entry permits is deleted, what is permitted is marked, what others opened is neither', () => {
  const [good, bad, foreign] = [to(GOOD, 40_001), to(BAD, 40_002), to(BAD, 40_003)];
  const sockets = [connected(GOOD, 40_001), connected(BAD, 40_002)];
  const sorted = sortUnmarkedFlows({ evaluator: judge } as unknown as AppliedState, m, sockets, [
    good,
    bad,
    foreign,
  ]);
  expect(sorted).toEqual({ kept: [good], forbidden: [bad] });
});

it('a socket has opened a flow only by its own protocol, port, address and peer', () => {
  const flow = to(GOOD, 40_001);
  const socket = connected(GOOD, 40_001);
  expect(isFrom(flow, socket)).toBe(true);
  expect(isFrom(flow, { ...socket, proto: 17 })).toBe(false);
  expect(isFrom(flow, { ...socket, port: 40_002 })).toBe(false);
  expect(isFrom(flow, { ...socket, address: '198.51.100.2' })).toBe(false);
  expect(isFrom(flow, { ...socket, peer: { address: BAD, port: 443 } })).toBe(false);
  expect(isFrom(flow, { ...socket, peer: { address: GOOD, port: 80 } })).toBe(false);
  expect(isFrom(to(GOOD, 40_001, 17), { proto: 17, port: 40_001 })).toBe(true);
});

it('the first run deletes and blocks the forbidden ones, and marks the others, by sockets of its cgroups', async () => {
  const [good, bad] = [to(GOOD, 40_001), to(BAD, 40_002)];
  const table = new Set([good, bad]);
  const marked: Flow[] = [];
  const blocked: string[] = [];
  const kernel = {
    flows: {
      flows: async (family: 4 | 6) => (family === 4 ? [...table] : []),
      flowsAmong: async () => [...table],
      delete: (f: Flow) => table.delete(f),
      mark: (f: Flow, value: number) => {
        if (value === (identityMark(shape.marks, m.identity) | shape.marks.enforced) >>> 0) marked.push(f);
        return true;
      },
    },
    addToBlocklist: async (_: string, members: readonly string[]) => void blocked.push(...members),
    hostAddresses: () => new Set([HOST]),
    sockets: async (paths: readonly string[]) =>
      paths.includes('docker/x') ? [connected(GOOD, 40_001), connected(BAD, 40_002)] : [],
  } as unknown as Kernel;
  const nothing = (): void => undefined;
  const revocation = new Revocation({
    shape,
    kernel,
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    reset: async () => undefined,
    blocklist: new FlowBlocklist(kernel, shape.prefix, () => 0),
    verified: { permits: () => true, knows: () => false },
    dns: { learn: async () => undefined },
  });
  const state = {
    subjects: new Map([[m.id, m]]),
    vethMap: { bindings: new Map() },
    input: input(m),
    hosts: { late: new Set([m.id]) },
    evaluator: judge,
  } as unknown as AppliedState;
  await revocation.run(state, { known: new Map(), again: new Set(), later: nothing });
  expect([...table]).toEqual([good]);
  expect(marked).toEqual([good]);
  expect(blocked).toEqual([`${HOST},6:40002,${BAD}`]);
});
