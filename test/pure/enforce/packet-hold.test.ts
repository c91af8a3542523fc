/** Packets of veths that nobody has classified: who they are taken for, and when. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type HeldPacket, PacketHold } from '../../../src/enforce/packet-hold.js';
import type { NetworkFacts } from '../../../src/policy/container.js';
import type { Mode } from '../../../src/policy/policy.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { layoutMarks, markOf, UNATTRIBUTED } from '../../../src/ruleset/marks.js';

const marks = layoutMarks(0xffff0000);
const OWN = '172.30.0.7';
const OWN6 = 'fd00::7';
const IDENTITY = 5;

interface World {
  readonly veths?: readonly number[];
  readonly bound?: readonly number[];
  readonly exempt?: readonly number[];
  readonly unattributed?: readonly number[];
  readonly mode?: Mode;
  /** The container is known, but its rules are not installed. */
  readonly isWithoutRules?: boolean;
  readonly listBegan?: number;
  readonly isUnknownStarting?: boolean;
}
const BRIDGE = {
  link: { index: 3, name: 'br', kind: 'bridge', mac: '', since: 0 },
  network: { subnets: ['172.30.0.0/24', 'fd00::/64'] } as unknown as NetworkFacts,
  ports: [7],
  mixed: false,
};
const stateOf = (w: World): AppliedState =>
  ({
    vethMap: {
      bindings: new Map(
        (w.bound ?? []).map((ifindex) => [
          ifindex,
          { ifindex, container: 'c', bridge: 'br', networkId: 'n', mac: '', ip4: OWN, ip6: OWN6 },
        ]),
      ),
      unbound: [],
      namespaces: new Set(),
      exempt: w.exempt ?? [],
      outdated: new Set(),
      bridges: new Map([['br', BRIDGE]]),
    },
    unattributed: new Set(w.unattributed),
    input: { unattributedMode: 'enforce' },
    subjects: new Map(
      w.isWithoutRules ? [] : [['c', { identity: IDENTITY, policy: { mode: w.mode ?? 'enforce' } }]],
    ),
    veths: w.veths ?? [7],
    view: {
      listBegan: w.listBegan ?? 0,
      starting: new Set(w.isUnknownStarting ? ['unknown'] : []),
      containers: new Map(),
    },
  }) as unknown as AppliedState;
/** As the bridge table marks a packet of an unknown veth. */
const unknownMark = (ifindex: number): number =>
  ((((ifindex & marks.ifindexMask) << marks.shift) | marks.unknown | marks.enforced) & 0xffffffff) >>> 0;

function holding(world: World) {
  let w = world;
  let now = 0;
  let isAwaited = false;
  let answered = Number.POSITIVE_INFINITY;
  const verdicts: [number, string, number?][] = [];
  const strangers: string[] = [];
  let asked = 0;
  const hold = new PacketHold({
    shape: { marks, holdQueue: 0 },
    applied: {
      get value() {
        return stateOf(w);
      },
    },
    classifier: { request: () => asked++, isAwaited: (since) => isAwaited || answered <= since },
    names: { unattributedSender: (src) => strangers.push(src) },
    now: () => now,
  });
  hold.begin(() => ({
    verdict: (id, verdict, mark) =>
      void verdicts.push(mark === undefined ? [id, verdict] : [id, verdict, mark]),
    [Symbol.dispose]: () => undefined,
  }));
  return {
    hold,
    verdicts,
    strangers,
    asked: () => asked,
    /** Sweeps come by themselves; `now` goes on with them. */
    wait: async (ms: number, awaited: boolean) => {
      isAwaited = awaited;
      for (const end = now + ms; now < end; ) {
        now += 250;
        await vi.advanceTimersByTimeAsync(250);
      }
    },
    /** The newest list of Docker that has been answered was requested at this time. */
    answer: (at: number) => {
      answered = at;
    },
    settle: (next: World, at = now) => {
      w = next;
      now = at;
      hold.settle();
    },
  };
}
const packet = (more: Partial<HeldPacket> = {}): HeldPacket => ({
  id: 1,
  mark: unknownMark(7),
  src: OWN,
  isLocal: false,
  ...more,
});
const taken = (w: World, p: Partial<HeldPacket> = {}) => {
  const h = holding(w);
  h.hold.take(packet(p));
  const { verdicts } = h;
  h.hold.close();
  return verdicts.slice();
};
const repeated = (identity: number, mode: Mode): number => (markOf(marks, identity, mode) | marks.held) >>> 0;

describe('a packet of a veth', () => {
  it('that is bound goes on as its container’s, with the addresses of the container', () => {
    for (const src of [OWN, OWN6])
      expect(taken({ bound: [7] }, { src })[0]).toEqual([1, 'repeat', repeated(IDENTITY, 'enforce')]);
  });

  it('of an enforced container with another source is dropped; of an observed one it goes on', () => {
    expect(taken({ bound: [7] }, { src: '172.30.0.8' })[0]).toEqual([1, 'drop']);
    expect(taken({ bound: [7], mode: 'observe' }, { src: '172.30.0.8' })[0]).toEqual([
      1,
      'repeat',
      repeated(IDENTITY, 'observe'),
    ]);
  });

  it('waits while nothing is known of the veth, or its container has no rules yet', () => {
    for (const w of [{}, { bound: [7], isWithoutRules: true }]) {
      const h = holding(w);
      h.hold.take(packet());
      expect([h.verdicts, h.asked(), [...h.hold.waitingVeths()]]).toEqual([[], 1, [7]]);
      h.settle({ bound: [7] });
      expect(h.verdicts).toHaveLength(1);
      h.hold.close();
    }
  });

  it('belongs to no container’s only when that is proven', () => {
    const h = holding({ unattributed: [7] });
    h.hold.take(packet());
    expect(h.verdicts).toEqual([[1, 'repeat', repeated(UNATTRIBUTED, 'enforce')]]);
    expect(h.strangers).toEqual([OWN]);
    h.hold.close();
  });

  it('belongs to no container’s only from an address of a managed network that is not bound', () => {
    const enforced = (src: string) => taken({ bound: [8], unattributed: [7], veths: [7, 8] }, { src })[0];
    for (const src of ['172.30.0.99', 'fd00::99']) expect(enforced(src)?.[1]).toBe('repeat');
    for (const src of [OWN, OWN6, '8.8.8.8', '2001:db8::1', 'fe80::1', 'x'])
      expect(enforced(src)).toEqual([1, 'drop']);
  });

  it('of an exempt bridge goes on without a mark', () => {
    expect(taken({ exempt: [7] })[0]).toEqual([1, 'repeat', marks.held]);
  });

  it('whose ifindex has the same low bits as another’s is nobody’s, bound, exempt or unattributed', () => {
    const twin = 7 + marks.ifindexMask + 1;
    expect(unknownMark(twin)).toBe(unknownMark(7));
    for (const w of [{ bound: [7] }, { exempt: [7] }, { unattributed: [7] }]) {
      const h = holding({ ...w, veths: [7, twin] });
      h.hold.take(packet());
      expect([h.verdicts, [...h.hold.waitingVeths()]]).toEqual([[], []]);
      h.settle({ ...w, veths: [7] });
      expect(h.verdicts).toHaveLength(1);
      h.hold.close();
    }
  });

  it('that came after the links were read is not taken for another’s', () => {
    const h = holding({ bound: [7], veths: [] });
    h.hold.take(packet());
    expect(h.verdicts).toEqual([]);
    h.hold.close();
    expect(h.verdicts).toEqual([[1, 'drop']]);
  });

  it.each([
    ['a veth', { mark: unknownMark(9) }, {}],
    ['the host’s network', { isLocal: true, mark: 0 }, { isLocal: true, mark: 0 }],
  ])(
    'waits while %s is flooded, which has a share of the queue, and all of it again later',
    (_, flood, calm) => {
      const veths = [7, 9];
      const h = holding({ veths });
      for (let id = 1; id <= 5_000; id++) h.hold.take(packet({ id, ...flood }));
      expect(h.verdicts).toHaveLength(5_000 - 1_024);
      expect(new Set(h.verdicts.map(([, verdict]) => verdict))).toEqual(new Set(['drop']));
      h.hold.take(packet({ id: 6_000 })); // of veth 7
      expect(h.verdicts.some(([id]) => id === 6_000)).toBe(false);
      h.settle({ veths, bound: [7, 9], listBegan: 1 });
      expect(h.verdicts).toContainEqual([6_000, 'repeat', repeated(IDENTITY, 'enforce')]);
      h.settle({ veths });
      h.verdicts.length = 0;
      h.hold.take(packet({ id: 7_000, ...calm }));
      expect(h.verdicts).toEqual([]);
      h.hold.close();
    },
  );

  it('keeps the bits of others', () => {
    expect(taken({ bound: [7] }, { mark: (unknownMark(7) | 0x12) >>> 0 })[0]?.[2]).toBe(
      (repeated(IDENTITY, 'enforce') | 0x12) >>> 0,
    );
  });
});

describe('a packet of the host’s network', () => {
  it('is asked again once a list begun after it is known whole', () => {
    const h = holding({ listBegan: 0 });
    h.hold.take(packet({ isLocal: true, mark: 0 }));
    expect(h.verdicts).toEqual([]);
    h.settle({ listBegan: 0 }, 10);
    h.settle({ listBegan: 5, isUnknownStarting: true });
    expect(h.verdicts).toEqual([]);
    h.settle({ listBegan: 5 });
    expect(h.verdicts).toEqual([[1, 'repeat', marks.held]]);
    h.hold.close();
  });
});

describe('how long a packet waits', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('two seconds, when everything has been answered and it belongs to no container', async () => {
    const h = holding({});
    h.hold.take(packet());
    await h.wait(1_750, false);
    expect(h.verdicts).toEqual([]);
    await h.wait(250, false);
    expect(h.verdicts).toEqual([[1, 'drop']]);
  });

  it('while an answer is outstanding, ten seconds and no longer', async () => {
    const h = holding({});
    h.hold.take(packet());
    await h.wait(9_750, true);
    expect(h.verdicts).toEqual([]);
    await h.wait(250, true);
    expect(h.verdicts).toEqual([[1, 'drop']]);
    expect(h.hold.counts.expired).toBe(1);
  });

  it('until the answer, when that comes later than two seconds', async () => {
    const h = holding({});
    h.hold.take(packet());
    await h.wait(5_000, true);
    h.settle({ bound: [7] }, 5_000);
    expect(h.verdicts).toEqual([[1, 'repeat', repeated(IDENTITY, 'enforce')]]);
    h.hold.take(packet({ id: 2, mark: unknownMark(9) }));
    await h.wait(1_000, true);
    await h.wait(1_250, false);
    expect(h.verdicts.at(-1)).toEqual([2, 'drop']);
  });

  it('for another list, when its veth is newer than the links that the answered one was compared with', async () => {
    const h = holding({ veths: [] });
    h.hold.take(packet());
    await h.wait(1_500, false);
    h.answer(1);
    h.settle({ veths: [7] }); // the pass of that list is the first that knows the veth
    await h.wait(2_000, false);
    expect(h.verdicts).toEqual([]);
    h.answer(1_501);
    await h.wait(250, false);
    expect(h.verdicts).toEqual([[1, 'drop']]);
  });

  it('more than two seconds for the first packets of a veth only: a flood leaves room for others', async () => {
    const h = holding({ veths: [7, 9] });
    for (let id = 1; id <= 1_000; id++) h.hold.take(packet({ id, mark: unknownMark(9) }));
    h.hold.take(packet({ id: 2_000 }));
    await h.wait(2_250, true);
    expect(h.verdicts).toHaveLength(1_000 - 64);
    const dropped = new Set(h.verdicts.map(([id]) => id));
    expect([dropped.has(1), dropped.has(64), dropped.has(65), dropped.has(2_000)]).toEqual([
      false,
      false,
      true,
      false,
    ]);
    h.hold.close();
  });
});
