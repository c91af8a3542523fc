import { expect, it } from 'vitest';
import { endedFlows } from '../../../src/coverage/would-deny.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import type { AsEnforced } from '../../../src/ruleset/policy-evaluator.js';

const TCP = 6;
const flow = (dst: string, dport: number, closed: boolean): Flow => ({
  family: 4,
  proto: TCP,
  orig: { src: '172.17.0.2', sport: 40_000, dst, dport },
  reply: { src: dst, sport: dport, dst: '172.17.0.2', dport: 40_000 },
  mark: 0,
  status: { seenReply: true, assured: true, confirmed: true, srcNat: false, dstNat: false },
  tcp: { handshake: false, closed, pickedUp: false },
  zone: 0,
  rawTuple: Buffer.alloc(0),
});

it('what enforce ends is open: a connection that has been closed, and is in the table for a while, is none', () => {
  const enforced = { member: {}, evaluator: { keeps: () => false } } as unknown as AsEnforced;
  const flows = [
    flow('93.184.1.1', 443, false),
    flow('93.184.1.2', 443, true),
    flow('93.184.1.3', 53, false),
  ];
  const shown = endedFlows(
    flows,
    enforced,
    (sent) => ({ ...sent, kind: 'address', name: null, resolved: null, entry: null }),
    () => true,
  );
  expect(shown.map(({ address }) => address)).toEqual(['93.184.1.1']);
});
