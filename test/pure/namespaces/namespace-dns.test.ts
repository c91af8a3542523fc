/** Whose resolver a namespace that was furnished ahead becomes: nobody's question may wait in it for long. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Logger } from '../../../src/lib/log.js';
import type { PreparedNamespace } from '../../../src/namespaces/container-namespaces.js';
import { NamespaceDns } from '../../../src/namespaces/namespace-dns.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

const silent: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const WHO = 'c1';

type Options = ConstructorParameters<typeof NamespaceDns>[0];
function furnisher(
  behind: Record<number, string>,
  inspected?: string,
  { onAttached, log, ...more }: Partial<Options['namespaces'] & Omit<Options, 'namespaces'>> = {},
) {
  const answers: string[] = [];
  const passed: string[] = [];
  const detached: string[] = [];
  const prepared = (path: string): PreparedNamespace => ({
    port: 20_000,
    claim: () => {
      answers.push(path);
      return { [Symbol.dispose]: () => void answers.splice(answers.indexOf(path), 1) };
    },
    passOn: async () => {
      passed.push(path);
      return { [Symbol.dispose]: () => void passed.splice(passed.indexOf(path), 1) };
    },
    drop: () => undefined,
  });
  const dns = new NamespaceDns({
    namespaces: {
      mayBeEmbedded: () => true,
      needsResolver: async () => false,
      isOnLan: () => false,
      isSettled: () => true,
      isUp: () => true,
      pathOf: () => inspected,
      pathBehind: (port) => behind[port],
      hasListedSince: () => true,
      exists: () => true,
      hasEnded: () => false,
      isMade: () => true,
      ownerOf: () => undefined,
      answeredBy: () => 'drawbridge',
      hasOwnResolvers: () => false,
      prepare: async (path) => prepared(path),
      prepareAhead: () => undefined,
      detach: async (path) => void detached.push(path),
      ...more,
    },
    onAttached: onAttached ?? (() => undefined),
    log: log ?? silent,
  });
  return {
    dns,
    answers,
    passed,
    detached,
    appeared: (path: string) => dns.appeared(path, () => prepared(path)),
  };
}
const state = {
  subjects: new Map([[WHO, { policy: { mode: 'enforce' } }]]),
  view: { containers: new Map() },
} as unknown as AppliedState;

it('a container that is started again is answered in its new namespace', async () => {
  const { dns, appeared, answers } = furnisher({ 1: '/a', 2: '/b' });
  appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  appeared('/b');
  dns.arrived(WHO, 2);
  await vi.waitFor(() => expect(answers).toEqual(['/b']));
});

it('a second port into the same namespace changes nothing', async () => {
  const { dns, appeared, answers, detached } = furnisher({ 1: '/a', 2: '/a' });
  appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  dns.arrived(WHO, 2);
  dns.applied(state);
  await dns.close();
  expect(detached).toEqual([]);
});

it('whether Docker asks from the host is known with the inspect of the container, before any pass', async () => {
  const inspect = { isSettled: false };
  const { dns, appeared, answers } = furnisher({ 1: '/a' }, undefined, {
    isSettled: () => inspect.isSettled,
  });
  appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  dns.reported();
  expect([dns.status(WHO), dns.hostAsked(WHO)]).toEqual(['attached', undefined]);
  inspect.isSettled = true;
  dns.reported();
  await vi.waitFor(() => expect(dns.hostAsked(WHO)).toBe(false));
});

it('what was furnished ahead is claimed by the pass that knows whose it is, needed or not', async () => {
  const { dns, appeared, answers } = furnisher({}, '/a');
  appeared('/a');
  dns.applied(state);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
});

it('a namespace that has gone with its container is no warning; one that stays away is one warning', async () => {
  const warnings: string[] = [];
  const dns = new NamespaceDns({
    namespaces: {
      mayBeEmbedded: () => true,
      needsResolver: async () => true,
      isOnLan: () => true,
      isSettled: () => true,
      isUp: () => true,
      pathOf: () => '/gone',
      pathBehind: () => '/gone',
      hasListedSince: () => true,
      exists: () => true,
      hasEnded: () => false,
      isMade: () => true,
      ownerOf: () => undefined,
      answeredBy: () => 'drawbridge',
      hasOwnResolvers: () => false,
      prepareAhead: () => undefined,
      prepare: async (path) =>
        Promise.reject(Object.assign(new Error(`ENOENT: no such file, open ${path}`), { code: 'ENOENT' })),
      detach: async () => undefined,
    },
    onAttached: () => undefined,
    log: { ...silent, warn: (_, text) => void warnings.push(text ?? '') },
  });
  const counts: number[] = [];
  for (let n = 0; n < 4; n++) {
    dns.applied(state);
    await dns.whole(10);
    counts.push(warnings.length);
  }
  await dns.close();
  expect([counts[0], counts.at(-1)]).toEqual([0, 1]);
});

describe('the resolv.conf files of containers', () => {
  /** Reads of the need of a resolver, for each state in turn. */
  async function readsAt(states: readonly AppliedState[], more: Partial<Options['namespaces']> = {}) {
    let reads = 0;
    const { dns } = furnisher({}, '/a', {
      needsResolver: async () => {
        reads += 1;
        return false;
      },
      ...more,
    });
    const counts: number[] = [];
    for (const one of states) {
      dns.applied(one);
      await dns.whole(100);
      counts.push(reads);
    }
    await dns.close();
    return counts;
  }
  const places = {};
  const view = { containers: new Map() };
  const at = (more: object = {}) =>
    ({
      view,
      places,
      subjects: new Map([[WHO, { policy: { mode: 'enforce' } }]]),
      ...more,
    }) as unknown as AppliedState;

  it('are not read again when only entries of policies have changed', async () => {
    expect(await readsAt([at(), at(), at()])).toEqual([1, 1, 1]);
  });

  it('are not read again for a state that has come while they were read', async () => {
    let reads = 0;
    let go: () => void = () => undefined;
    const { dns } = furnisher({}, '/a', {
      needsResolver: async () => {
        reads += 1;
        await new Promise<void>((done) => (go = done));
        return false;
      },
    });
    dns.applied(at());
    await vi.waitFor(() => expect(reads).toBe(1));
    dns.applied(at());
    go();
    await dns.whole(100);
    dns.applied(at());
    await dns.whole(100);
    expect(reads).toBe(1);
    await dns.close();
  });

  it('are read again after a change of the places', async () => {
    expect(await readsAt([at(), at({ places: {} }), at(), at()])).toEqual([1, 2, 3, 3]);
  });

  it('are read again while a namespace could not be prepared', async () => {
    const failing = {
      needsResolver: async () => true,
      prepare: async () => Promise.reject(new Error('no such table')),
    };
    const tried: number[] = [];
    await readsAt([at(), at(), at()], {
      ...failing,
      prepare: () => {
        tried.push(1);
        return failing.prepare();
      },
    });
    expect(tried).toHaveLength(3);
  });
});

describe('a namespace whose container', () => {
  it('is not known yet keeps its questions, and is answered once it is known', async () => {
    let by: 'drawbridge' | 'docker' | undefined;
    let owner: string | undefined;
    const { dns, appeared, answers, passed } = furnisher({}, undefined, {
      answeredBy: () => by,
      ownerOf: () => owner,
    });
    appeared('/a');
    dns.reported();
    owner = WHO;
    dns.reported();
    await dns.whole(20);
    expect([answers, passed]).toEqual([[], []]);
    by = 'drawbridge';
    dns.reported();
    await vi.waitFor(() => expect(answers).toEqual(['/a']));
    expect(passed).toEqual([]);
  });

  it.each(['its port', 'what is in it', 'inspect'])(
    'asks Docker is left to Docker: told by %s',
    async (told) => {
      let owner: string | undefined;
      const { dns, appeared, answers, passed } = furnisher({ 1: '/a' }, undefined, {
        answeredBy: () => 'docker',
        ownerOf: () => owner,
      });
      appeared('/a');
      if (told === 'its port') dns.arrived(WHO, 1);
      else if (told === 'inspect') owner = WHO;
      else dns.claimed(WHO, '/a');
      dns.reported();
      await vi.waitFor(() => expect(passed).toEqual(['/a']));
      expect(answers).toEqual([]);
      await dns.close();
      expect(passed).toEqual([]);
    },
  );

  it('asked Docker and is enforced now is answered by us alone', async () => {
    let by: 'drawbridge' | 'docker' = 'docker';
    const { dns, appeared, answers, passed } = furnisher({ 1: '/a' }, '/a', {
      answeredBy: () => by,
      needsResolver: async () => true,
    });
    appeared('/a');
    dns.arrived(WHO, 1);
    await vi.waitFor(() => expect(passed).toEqual(['/a']));
    by = 'drawbridge';
    dns.applied(state);
    await vi.waitFor(() => expect(answers).toEqual(['/a']));
    expect(passed).toEqual([]);
  });

  it('has gone has no sockets of ours any more', async () => {
    let isMade = true;
    const { dns, appeared, passed } = furnisher({ 1: '/a' }, undefined, {
      answeredBy: () => 'docker',
      isMade: () => isMade,
    });
    appeared('/a');
    dns.arrived(WHO, 1);
    await vi.waitFor(() => expect(passed).toEqual(['/a']));
    isMade = false;
    dns.applied({ ...state, subjects: new Map() });
    await vi.waitFor(() => expect(passed).toEqual([]));
  });
});

it.each(['drawbridge', 'docker'] as const)(
  'a container that has exited keeps no socket of ours: answered by %s',
  async (by) => {
    let ended = false;
    const { dns, appeared, answers, passed } = furnisher({ 1: '/a' }, undefined, {
      answeredBy: () => by,
      hasEnded: () => ended,
    });
    appeared('/a');
    dns.arrived(WHO, 1);
    await vi.waitFor(() => expect([...answers, ...passed]).toEqual(['/a']));
    ended = true;
    dns.applied({ ...state, subjects: new Map() });
    await vi.waitFor(() => expect([...answers, ...passed]).toEqual([]));
  },
);

it('a container that has exited by a late report, and is in the kernel, keeps its resolver', async () => {
  const { dns, appeared, answers, detached } = furnisher({ 1: '/a' }, undefined, { hasEnded: () => true });
  appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  dns.applied(state);
  await dns.whole(20);
  expect(answers).toEqual(['/a']);
  dns.applied({ ...state, subjects: new Map() }); // of a pass that began before its start: its names get no answer
  await vi.waitFor(() => expect(answers).toEqual([]));
  expect(detached).toEqual([]);
});

describe('a new namespace in which Docker was asked before our rules', () => {
  it.each(['first', 'last'] as const)(
    "is its container's, and said, whichever is known %s",
    async (order) => {
      const warn = vi.fn();
      let isMade = true;
      const { dns, appeared } = furnisher({ 1: '/a' }, '/a', {
        isMade: () => isMade,
        log: { ...silent, warn },
      });
      appeared('/a');
      expect(dns.status(WHO)).toBe('none');
      if (order === 'first') dns.askedBefore('/a');
      expect(warn).not.toHaveBeenCalled(); // whose it is, is not known: Docker may be the one to ask
      dns.arrived(WHO, 1);
      await vi.waitFor(() => expect(dns.status(WHO)).not.toBe('none'));
      if (order === 'last') {
        expect(dns.status(WHO)).toBe('attached');
        dns.askedBefore('/a');
      }
      expect(dns.status(WHO)).toBe('late');
      expect(warn.mock.calls).toEqual([[{ container: WHO }, expect.stringMatching(/before our resolver/)]]);
      isMade = false;
      dns.applied(state);
      await vi.waitFor(() => expect(dns.status(WHO)).toBe('attached'));
      await dns.close();
    },
  );
});

describe('a namespace that the start finds without rules', () => {
  const observed = { state: 'running', networkMode: 'n', id: WHO };
  const running = {
    subjects: new Map(),
    view: { containers: new Map([[WHO, observed]]) },
  } as unknown as AppliedState;

  it.each([
    [['/a'], []],
    [[], ['/a']],
  ])('is not entered: %j', async (surveyed, entered) => {
    const { dns, detached } = furnisher({}, '/a', { answeredBy: () => 'docker' });
    dns.surveyed(surveyed);
    const began = performance.now();
    dns.applied(running);
    await dns.whole(5_000);
    expect(performance.now() - began).toBeLessThan(4_000); // it counts as whole
    expect(detached).toEqual(entered);
    await dns.close();
  });

  it('is entered once it has been prepared', async () => {
    let by: 'drawbridge' | 'docker' = 'drawbridge';
    const { dns, answers, detached } = furnisher({}, '/a', {
      answeredBy: () => by,
      needsResolver: async () => true,
    });
    dns.surveyed(['/a']);
    dns.applied(state);
    await vi.waitFor(() => expect(answers).toEqual(['/a']));
    expect(detached).toEqual([]);
    by = 'docker';
    dns.applied({ ...state, subjects: new Map([[WHO, { policy: { mode: 'observe' } }]]) } as never);
    await vi.waitFor(() => expect(detached).toEqual(['/a']));
    expect(answers).toEqual([]);
    await dns.close();
  });
});

describe('whether namespaces are furnished ahead', () => {
  it.each([true, false])(
    'is shown by containers without resolvers of their own: has some: %s',
    async (own) => {
      const said: boolean[] = [];
      const { dns } = furnisher({}, '/a', {
        needsResolver: async () => false,
        hasOwnResolvers: () => own,
        prepareAhead: (furnish) => void said.push(furnish),
      });
      dns.applied(state);
      await dns.whole(20);
      expect(said).toEqual(own ? [] : [false]);
    },
  );
});

it('a namespace whose rules cannot be taken out is left to Docker with the next report', async () => {
  let tries = 0;
  const { dns, passed } = furnisher({}, undefined, { answeredBy: () => 'docker', ownerOf: () => WHO });
  dns.appeared('/a', () => ({
    port: 20_000,
    claim: () => ({ [Symbol.dispose]: () => undefined }),
    passOn: async () => {
      if (++tries === 1) throw new Error('busy');
      passed.push('/a');
      return { [Symbol.dispose]: () => undefined };
    },
    drop: () => undefined,
  }));
  await vi.waitFor(() => expect(tries).toBe(1));
  expect(passed).toEqual([]);
  await vi.waitFor(() => {
    dns.reported();
    expect(passed).toEqual(['/a']);
  });
  await dns.close();
});

describe('a namespace that is no container’s', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('is left to Docker after ten seconds, and kept while Docker does not answer', async () => {
    let answers = false;
    const { appeared, passed } = furnisher({}, undefined, { hasListedSince: () => answers });
    appeared('/a');
    await vi.advanceTimersByTimeAsync(25_000);
    expect(passed).toEqual([]);
    answers = true;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(passed).toEqual(['/a']);
  });
});

it('200 passes while a namespace is slow to prepare: their states are not kept, and the last one wins', async () => {
  let release: () => void = () => undefined;
  const slow = new Promise<void>((done) => {
    release = done;
  });
  let syncs = 0;
  const { dns, answers } = furnisher({}, '/a', {
    mayBeEmbedded: () => {
      syncs += 1; // once for each member of the state that is worked on
      return true;
    },
    needsResolver: async () => {
      await slow;
      return true;
    },
  });
  const other = {
    ...state,
    subjects: new Map([['c2', { policy: { mode: 'enforce' } }]]),
  } as unknown as AppliedState;
  for (let n = 0; n < 200; n++) dns.applied(other);
  dns.applied(state);
  release();
  await vi.waitFor(() => expect(answers).toContain('/a'));
  await dns.close();
  expect(syncs).toBeLessThan(10);
});
