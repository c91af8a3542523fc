import { expect, it } from 'vitest';
import { PacketHold } from '../../../src/enforce/packet-hold.js';
import type { Mode } from '../../../src/policy/policy.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { layoutMarks } from '../../../src/ruleset/marks.js';

const MARKS = layoutMarks(0x7f003fff);
const PORT = 7;
const OWN = { ip4: '172.17.0.2', ip6: 'fd00:db:1::2' };

/** What becomes of a packet of a veth that was bound while the packet waited. */
function verdictOf(mode: Mode, src: string): readonly string[] {
  const binding = {
    ifindex: PORT,
    container: 'c'.repeat(64),
    bridge: 'docker0',
    networkId: 'n'.repeat(64),
    mac: '02:42:ac:11:00:02',
    ...OWN,
  };
  const state = {
    vethMap: {
      bindings: new Map([[PORT, binding]]),
      unbound: [],
      outdated: new Set(),
      namespaces: new Set(),
      exempt: [],
      bridges: new Map(),
    },
    unattributed: new Set(),
    input: { unattributedMode: 'observe' },
    subjects: new Map([[binding.container, { identity: 5, policy: { mode } }]]),
    veths: [PORT],
    view: { listBegan: 0, starting: new Set(), containers: new Map() },
  } as unknown as AppliedState;
  const verdicts: string[] = [];
  const hold = new PacketHold({
    shape: { marks: MARKS, holdQueue: 0 },
    applied: { value: state },
    classifier: { request: () => undefined, isAwaited: () => false },
    names: { unattributedSender: () => undefined },
    now: () => 0,
  });
  hold.begin(() => ({
    verdict: (_, verdict) => void verdicts.push(verdict),
    [Symbol.dispose]: () => undefined,
  }));
  const mark = (MARKS.unknown | MARKS.enforced | (PORT << MARKS.shift)) >>> 0;
  hold.take({ id: 1, mark, src, isLocal: false });
  hold.close();
  return verdicts;
}

it.each([OWN.ip4, OWN.ip6])('a held packet from its own address %s is repeated', (src) => {
  expect(verdictOf('enforce', src)).toEqual(['repeat']);
});
it.each(['172.17.0.3', 'fd00:db:1::3', 'fe80::1', '0.0.0.0'])(
  'a held packet from %s, which is not its own, is dropped',
  (src) => {
    expect(verdictOf('enforce', src)).toEqual(['drop']);
  },
);
it('an observed container may use other addresses, as in the bridge table', () => {
  expect(verdictOf('observe', '172.17.0.3')).toEqual(['repeat']);
});
