import { describe, expect, it } from 'vitest';
import { Classifier } from '../../../src/enforce/classify.js';
import type { DockerView, UnnamedEndpoints } from '../../../src/policy/container.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const BRIDGE = { link: { index: 1 }, network: { id: 'n' } };
const MAC = { 7: '02:00:00:00:00:07', 8: '02:00:00:00:00:08', other: '02:00:00:00:00:99' };
const veth = (index: 7 | 8, netnsId: number, peerMac: string | undefined = MAC[index]) => ({
  index,
  name: `veth${index}`,
  master: 1,
  netnsId,
  ...(peerMac && { peerMac }),
});
type Shown = Partial<Record<keyof UnnamedEndpoints, readonly string[]>>;
const viewOf = (
  starting: readonly string[] = [],
  shown: readonly string[] = [],
  { joining = [], foreign = [] }: Shown = {},
): DockerView =>
  ({
    containers: new Map(shown.map((id) => [id, { id, endpoints: [{ networkId: 'n' }] }])),
    starting: new Set(starting),
    attached: new Set(),
    unnamed: new Map([['n', { joining: new Set(joining), foreign: new Set(foreign) }]]),
  }) as unknown as DockerView;
const NO_SANDBOX = { sandboxOf: () => undefined, ownerOf: () => undefined };
const ON_HOST = { index: 7, name: 'veth7', up: true };
const elsewhere = (index: number) => ({ ...ON_HOST, index, linkNamespaceId: 10 * index });

interface World {
  readonly waiting?: readonly number[];
  readonly starting?: readonly string[];
  /** Ports that have been a container's. */
  readonly were?: readonly number[];
  /** Namespaces behind bound ports. */
  readonly namespaces?: readonly number[];
  /** Containers that Docker shows on the bridge's network; those that have a veth. */
  readonly shown?: readonly string[];
  readonly listedOnly?: readonly string[];
  readonly bound?: readonly string[];
  /** The bridge of the veths is a managed one. */
  readonly isManaged?: boolean;
  /** MACs of endpoints that Docker shows without a container; null: its members were not read. */
  readonly unnamed?: Shown | null;
  /** MACs at the far ends, where not MAC[7] and MAC[8]; empty: not known. */
  readonly macs?: { readonly 7?: string; readonly 8?: string };
  /** Veth 7 leads to a sandbox of Docker: of this container, or (empty) of none that is known. */
  readonly sandbox?: string;
  /** Veths of which the kernel finds the far end in the network namespace of the host. */
  readonly onHost?: readonly number[];
  /** The kernel does not find the veths any more. */
  readonly gone?: boolean;
  /** What happens while the list is under way. */
  readonly meanwhile?: () => void;
}
/** Ports 7 and 8 stand on a managed bridge and belong to nobody that is known. */
async function judged(w: World): Promise<number[]> {
  const state = {
    view: viewOf(w.starting, w.shown),
    vethMap: {
      unbound: [veth(7, 70, w.macs?.[7]), veth(8, 80, w.macs?.[8])],
      bindings: new Map((w.bound ?? []).map((container, i) => [20 + i, { container, networkId: 'n' }])),
      bridges: new Map(w.isManaged === false ? [] : [['br', BRIDGE]]),
      namespaces: new Set(w.namespaces),
    },
    containers: new Set(w.were),
  } as unknown as AppliedState;
  const strangers: number[] = [];
  let passes = 0;
  const classifier = new Classifier({
    docker: {
      refresh: async () => {
        w.meanwhile?.();
        const view = viewOf(w.starting, [...(w.shown ?? []), ...(w.listedOnly ?? [])], w.unnamed ?? {});
        return w.unnamed === null ? { ...view, unnamed: new Map() } : view;
      },
    },
    reconciler: { inForce: async () => void passes++ },
    applied: { value: state },
    pass: { setUnattributed: (veth) => strangers.push(veth) },
    namespaces: {
      sandboxOf: (id) => (id === 70 && w.sandbox !== undefined ? '/netns/7' : undefined),
      ownerOf: () => w.sandbox || undefined,
    },
    kernel: {
      linkTable: {
        byIndex: (index) => (w.gone ? undefined : w.onHost?.includes(index) ? ON_HOST : elsewhere(index)),
      },
    },
    now: () => performance.now(),
    log: quiet,
  });
  classifier.request(() => new Set(w.waiting ?? [7]));
  await expect.poll(() => passes).toBeGreaterThan(0);
  await new Promise(setImmediate);
  return strangers;
}

it('a port whose own packet waited before the list was begun, and that nobody is known for, is nobody’s', async () => {
  expect(await judged({})).toEqual([7]);
  expect(await judged({ waiting: [7, 8] })).toEqual([7, 8]);
});

it('Docker makes a port before it says whose it is: without a packet of its own nothing is said of it', async () => {
  expect(await judged({ waiting: [] })).toEqual([]);
  expect(await judged({ waiting: [9] })).toEqual([]);
});

it('nobody is nobody while a container starts or joins', async () => {
  expect(await judged({ starting: ['c'] })).toEqual([]);
});

it('a port that has been a container’s never is, nor one that leads to the namespace of one', async () => {
  expect(await judged({ were: [7] })).toEqual([]);
  expect(await judged({ namespaces: [70] })).toEqual([]);
  expect(await judged({ namespaces: [71], were: [8] })).toEqual([7]);
});

it('packets that come while the list is under way count for the next one', async () => {
  const waiting: number[] = [7];
  expect(await judged({ waiting, meanwhile: () => waiting.push(8) })).toEqual([7]);
});

it('while a container of the bridge has no veth yet, none there is nobody’s: it may be that one’s', async () => {
  expect(await judged({ shown: ['c'] })).toEqual([]);
  expect(await judged({ listedOnly: ['c'] })).toEqual([]);
  expect(await judged({ shown: ['c', 'd'], bound: ['c'] })).toEqual([]);
  expect(await judged({ shown: ['c'], bound: ['c'] })).toEqual([7]);
});

it('a veth on a bridge of which nothing is known any more is not nobody’s', async () => {
  expect(await judged({ isManaged: false })).toEqual([]);
});

describe('an endpoint that Docker shows without its container', () => {
  it('a veth with its MAC at the far end may be a container’s that joins', async () => {
    expect(await judged({ waiting: [7, 8], unnamed: { joining: [MAC[7]] } })).toEqual([8]);
  });
  it('another MAC says nothing about the veth: a crash of dockerd may have left that endpoint behind', async () => {
    expect(await judged({ unnamed: { joining: [MAC.other] } })).toEqual([7]);
  });
  it('without a MAC, or while the MAC of the veth is not known, any veth of the bridge may be its', async () => {
    expect(await judged({ unnamed: { joining: [''] } })).toEqual([]);
    expect(await judged({ unnamed: { joining: [MAC.other] }, macs: { 7: '' } })).toEqual([]);
    expect(await judged({ macs: { 7: '' } })).toEqual([7]);
  });
  it('an endpoint without a MAC is not that of a step, which Docker shows', async () => {
    expect(await judged({ unnamed: { joining: [''], foreign: [MAC[7]] }, sandbox: '' })).toEqual([7]);
  });
  it('nothing is said while the members of the network were not read', async () => {
    expect(await judged({ unnamed: null })).toEqual([]);
  });
});

describe('a veth that leads to a sandbox of Docker', () => {
  it('is never unattributed, although Docker shows no endpoint for it', async () => {
    expect(await judged({ waiting: [7, 8], sandbox: '' })).toEqual([8]);
    expect(await judged({ sandbox: 'c' })).toEqual([]);
  });
  it('is when Docker shows it as the endpoint of a step of a build', async () => {
    expect(await judged({ sandbox: '', unnamed: { foreign: [MAC[7]] } })).toEqual([7]);
  });
  it('is not by the MAC of a step when the sandbox is a container’s, or when two veths have that MAC', async () => {
    const unnamed = { foreign: [MAC[7]] };
    expect(await judged({ sandbox: 'c', unnamed })).toEqual([]);
    expect(await judged({ sandbox: '', unnamed, macs: { 8: MAC[7] } })).toEqual([]);
    expect(await judged({ sandbox: '', unnamed, macs: { 7: '' } })).toEqual([]);
  });
});

it('a veth whose far end the kernel does not find in another namespace may be that of a container that has left', async () => {
  expect(await judged({ waiting: [7, 8], onHost: [7] })).toEqual([8]);
  expect(await judged({ onHost: [7], unnamed: { foreign: [MAC[7]] } })).toEqual([]);
  expect(await judged({ gone: true })).toEqual([]);
});

describe('what a packet waits for', () => {
  const classifierOf = (
    more: Partial<ConstructorParameters<typeof Classifier>[0]>,
    starting: readonly string[] = [],
  ) => {
    let now = 0;
    const classifier = new Classifier({
      docker: { refresh: async () => viewOf(starting) },
      reconciler: { inForce: async () => undefined },
      applied: {
        value: {
          view: viewOf(starting),
          vethMap: { unbound: [], bindings: new Map(), bridges: new Map(), namespaces: new Set() },
          containers: new Set(),
        } as unknown as AppliedState,
      },
      pass: { setUnattributed: () => undefined },
      namespaces: NO_SANDBOX,
      kernel: { linkTable: { byIndex: elsewhere } },
      now: () => (now += 1),
      log: quiet,
      ...more,
    });
    return classifier;
  };
  const settled = (): Promise<void> => new Promise((done) => setTimeout(done, 10));

  it('nothing, once a list begun after it has been answered and is in force', async () => {
    const c = classifierOf({});
    expect(c.isAwaited(0)).toBe(true);
    c.request(() => new Set([7]));
    await settled();
    expect([c.isAwaited(0), c.isAwaited(1)]).toEqual([false, true]);
  });

  it('the list, the pass, and containers that start', async () => {
    const never = new Promise<never>(() => undefined);
    const late = async (): Promise<void> => {
      throw new Error('not in force within 10000 ms');
    };
    for (const c of [
      classifierOf({ docker: { refresh: () => never } }),
      classifierOf({ reconciler: { inForce: () => never } }),
      classifierOf({ reconciler: { inForce: late } }),
      classifierOf({}, ['c']),
    ]) {
      c.request(() => new Set([7]));
      await settled();
      expect(c.isAwaited(0)).toBe(true);
    }
  });

  it('the name of a container that joins, for as long as a start may take: then the log says it, once', async () => {
    let now = 0;
    const logged: unknown[] = [];
    const c = classifierOf({
      docker: { refresh: async () => viewOf([], [], { joining: [MAC[7]] }) },
      applied: {
        value: {
          view: viewOf(),
          vethMap: {
            unbound: [veth(7, 70)],
            bindings: new Map(),
            bridges: new Map([['br', BRIDGE]]),
            namespaces: new Set(),
          },
          containers: new Set(),
        } as unknown as AppliedState,
      },
      now: () => now,
      log: { ...quiet, warn: (fields: unknown) => void logged.push(fields) },
    });
    const tried = async (at: number): Promise<[boolean, number]> => {
      now = at;
      c.request(() => new Set([7]));
      await settled();
      return [c.isAwaited(now - 1), logged.length];
    };
    expect([await tried(1), await tried(9_999)]).toEqual([
      [true, 0],
      [true, 0],
    ]);
    expect([await tried(10_001), await tried(20_000)]).toEqual([
      [false, 1],
      [false, 1],
    ]);
    expect(logged).toEqual([
      {
        port: 'veth7',
        why: 'Docker shows its endpoint without a container',
        remedy: 'disconnect the endpoint that docker network inspect shows, or restart Docker',
      },
    ]);
  });

  it('a list rests as long as the list before it took, whatever its pass took', async () => {
    let [now, lists] = [0, 0];
    const slow = { list: 0, pass: 0 };
    const c = classifierOf({
      docker: {
        refresh: async () => {
          lists += 1;
          now += slow.list;
          return viewOf();
        },
      },
      reconciler: {
        inForce: async () => {
          now += slow.pass;
          if (lists === 1) c.request(() => new Set([7])); // a packet of another veth has come
        },
      },
      now: () => now,
    });
    slow.pass = 60_000;
    c.request(() => new Set([7]));
    await settled();
    expect(lists).toBe(2);
    [lists, slow.pass, slow.list] = [0, 10, 60_000];
    c.request(() => new Set([7]));
    await settled();
    expect(lists).toBe(1);
  });

  it('nothing from an engine that refuses', async () => {
    const c = classifierOf({
      docker: {
        refresh: async () => {
          throw new Error('connect ECONNREFUSED');
        },
      },
    });
    c.request(() => new Set([7]));
    await settled();
    expect(c.isAwaited(0)).toBe(false);
  });
});
