/** Whose datagrams get a zone of conntrack, and when. */

import { expect, it } from 'vitest';
import { ConntrackZones } from '../../../src/enforce/conntrack-zones.js';
import { Identities } from '../../../src/enforce/identities.js';
import type { DelayedTrigger, PassTrigger } from '../../../src/enforce/pass-trigger.js';
import type { Cgroup, Subject } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';
import { member, shape } from '../ruleset/sample.js';

const cgroup = (object: string): Cgroup => ({ path: `docker/${object}`, object });
const late = (identity: number, object: string, zones: ConntrackZones): Subject => ({
  ...member(identity, '', 'enforce', []),
  host: { cgroups: [cgroup(object)], zoned: zones.has([cgroup(object)], true) },
});

function lab() {
  const flows: Flow[] = [];
  const asked: [DelayedTrigger, number][] = [];
  const zones = new ConntrackZones({
    marks: shape.marks,
    flows: {
      flows: async (family, { mark } = {}) =>
        flows.filter((f) => f.family === family && (f.mark & (mark?.mask ?? 0)) >>> 0 === mark?.value),
      flowsAmong: async () => [],
      delete: () => true,
      mark: () => true,
    },
  });
  const check = (late: readonly Subject[], triggers: readonly PassTrigger[]): Promise<void> =>
    zones.check(late, { triggers, later: (trigger, ms) => void asked.push([trigger, ms]) });
  return { flows, asked, zones, check };
}
const flow = (mark: number, assured: boolean, proto = 17): Flow => {
  const ends = { src: '192.0.2.2', dst: '93.184.40.1', sport: 40_000, dport: 7 };
  return {
    ...BARE_FLOW,
    family: 4,
    proto,
    mark,
    status: { ...BARE_FLOW.status, assured },
    orig: ends,
    reply: { ...ends, src: ends.dst, dst: ends.src },
  };
};

it('held from its first instruction: at once', () => {
  expect(lab().zones.has([cgroup('a')], false)).toBe(true);
});

it('late: once no stream of its own goes on outside', async () => {
  const { flows, asked, zones, check } = lab();
  flows.push(flow(2, true), flow(3, false), flow(3, true, 6), flow(4, true));
  const both = (): Subject[] => [late(2, 'a', zones), late(3, 'b', zones)];
  expect(both().map((m) => m.host?.zoned)).toEqual([false, false]);
  await check(both(), []);
  expect(both().map((m) => m.host?.zoned)).toEqual([false, true]);
  expect(asked.map(([, ms]) => ms)).toEqual([0, 30_000]);
  const trigger = asked[0]?.[0] as DelayedTrigger;
  flows.length = 0;
  await check(both(), [{ kind: 'changes' }]);
  expect(both().map((m) => m.host?.zoned)).toEqual([false, true]);
  await check(both(), [trigger]);
  expect(both().map((m) => m.host?.zoned)).toEqual([true, true]);
});

it('after a restart: as its rule stands', () => {
  const { zones } = lab();
  zones.takeOver(new Set(['docker/a']));
  expect([zones.has([cgroup('a')], true), zones.has([cgroup('b')], true)]).toEqual([true, false]);
});

it('a number counts as given anew until what bore it has ended', () => {
  const numbers = new Identities(100);
  numbers.adopt('standing', 2);
  expect(numbers.assign('standing', 0)).toBe(2);
  expect([...numbers.born]).toEqual([]);
  expect(numbers.assign('new', 0)).toBe(3);
  expect([...numbers.born]).toEqual([3]);
  numbers.settle([3]);
  expect([...numbers.born]).toEqual([]);
});
