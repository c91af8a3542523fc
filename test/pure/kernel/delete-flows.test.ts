/** Flows of a new container's addresses: whatever an earlier holder left ends before the veth has an identity. */

import { describe, expect, it } from 'vitest';
import { deleteFlowsOfAddresses, type FlowTable } from '../../../src/kernel/delete-flows.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';

const OWN = '172.18.0.2';
const OWN6 = 'fd00:18::2';
const flow = (src: string, dst: string, answers = dst): Flow => ({
  ...BARE_FLOW,
  family: src.includes(':') ? 6 : 4,
  proto: 17,
  mark: 0,
  orig: { src, dst, sport: 4000, dport: 53 },
  reply: { src: answers, dst: src, sport: 53, dport: 4000 },
});
const OPENED = [flow(OWN, '192.0.2.1'), flow(OWN6, '2001:db8::1')];
/** From elsewhere, also by DNAT from an address of the host. */
const TO_IT = [flow('192.0.2.1', OWN), flow('192.0.2.1', '198.51.100.1', OWN)];
const OTHERS = [flow('172.18.0.3', '192.0.2.1'), flow('192.0.2.1', '172.18.0.3')];

function tableOf(count: number | undefined) {
  const flows = new Set([...OPENED, ...TO_IT, ...OTHERS]);
  const asked: string[] = [];
  /** Packets on their way that create a flow again. */
  const again = [OPENED[0]];
  const table: FlowTable = {
    flows: async (family, filter = {}) => {
      asked.push('filtered');
      return [...flows].filter(
        (f) =>
          f.family === family &&
          (filter.orig?.src === undefined || f.orig.src === filter.orig.src) &&
          (filter.reply?.src === undefined || f.reply.src === filter.reply.src),
      );
    },
    flowsAmong: async (addresses) => {
      asked.push('walk');
      return [...flows].filter((f) => addresses.has(f.orig.src) || addresses.has(f.reply.src));
    },
    count: () => count,
    delete: (f) => {
      const was = flows.delete(f as Flow);
      const next = again.pop();
      if (next) queueMicrotask(() => flows.add(next));
      return was;
    },
    mark: () => true,
  };
  return { table, flows, asked: () => new Set(asked) };
}

describe.each([
  [10, 'walk'],
  [10_001, 'filtered'],
  [undefined, 'filtered'],
] as const)('a table of %s flows', (count, way) => {
  it('what was opened from an address ends, twice; what was opened to it unless it may go on', async () => {
    const { table, flows, asked } = tableOf(count);
    await deleteFlowsOfAddresses(table, new Set([OWN, OWN6]), (f) => f === TO_IT[1]);
    expect([...flows]).toEqual([TO_IT[1], ...OTHERS]);
    expect(asked()).toEqual(new Set([way]));
  });

  it('what it opened itself never goes on, whatever may', async () => {
    const { table, flows } = tableOf(count);
    await deleteFlowsOfAddresses(table, new Set([OWN, OWN6]), () => true);
    expect([...flows]).toEqual([...TO_IT, ...OTHERS]);
  });

  it('nothing is asked without an address', async () => {
    const { table, flows, asked } = tableOf(count);
    await deleteFlowsOfAddresses(table, new Set(), () => false);
    expect([flows.size, asked().size]).toEqual([6, 0]);
  });
});
