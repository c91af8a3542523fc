/** Any order of what happens to namespaces and their containers: no query has two resolvers, and no socket stays behind. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { PreparedNamespace } from '../../../src/namespaces/container-namespaces.js';
import { NamespaceDns } from '../../../src/namespaces/namespace-dns.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const CONTAINERS = ['c0', 'c1'];
type By = 'drawbridge' | 'docker' | undefined;

/** Two containers, each with a namespace that is made again when it is started again. */
class World {
  readonly by = new Map<string, By>();
  readonly run = new Map<string, number>();
  readonly inspected = new Set<string>();
  readonly up = new Set<string>();
  readonly needs = new Map<string, boolean>();
  /** The sockets in each namespace, and what is done with their queries. */
  readonly sockets = new Map<string, 'waiting' | 'answered' | 'passed'>();
  readonly rules = new Set<string>();
  isRefusing = false;
  places = {};
  readonly dns = new NamespaceDns({
    namespaces: {
      mayBeEmbedded: () => true,
      needsResolver: async (id) => this.needs.get(id) === true,
      isOnLan: () => false,
      isSettled: (id) => this.inspected.has(id),
      isUp: (id) => this.up.has(id),
      pathOf: (id) => (this.inspected.has(id) && this.up.has(id) ? this.path(id) : undefined),
      pathBehind: (veth) => this.path(CONTAINERS[veth] ?? ''),
      hasListedSince: () => true,
      exists: () => true,
      hasEnded: (id) => !this.up.has(id),
      isMade: (path) => this.isMade(path),
      ownerOf: (path) => CONTAINERS.find((id) => this.inspected.has(id) && this.path(id) === path),
      answeredBy: (id) => this.by.get(id),
      hasOwnResolvers: () => false,
      prepareAhead: () => undefined,
      prepare: async (path) => {
        await Promise.resolve();
        this.refuse(path);
        return this.prepared(path);
      },
      detach: async (path) => {
        await Promise.resolve();
        this.refuse(path);
        this.rules.delete(path);
      },
    },
    onAttached: () => undefined,
    log: silent,
  });

  path(id: string): string {
    return `/${id}/${this.run.get(id) ?? 0}`;
  }
  isMade(path: string): boolean {
    return CONTAINERS.some((id) => this.up.has(id) && this.path(id) === path);
  }
  refuse(path: string): void {
    if (!this.isMade(path)) throw Object.assign(new Error('ENOENT'), { code: 'ENOENT' });
    if (this.isRefusing) throw new Error('busy');
  }
  prepared(path: string): PreparedNamespace {
    if (this.sockets.has(path)) throw new Error(`${path}: its sockets are open`);
    this.sockets.set(path, 'waiting');
    this.rules.add(path);
    const closing = { [Symbol.dispose]: () => void this.sockets.delete(path) };
    return {
      port: 1,
      claim: () => {
        this.sockets.set(path, 'answered');
        return closing;
      },
      passOn: async () => {
        await Promise.resolve();
        this.refuse(path);
        this.rules.delete(path);
        this.sockets.set(path, 'passed');
        return closing;
      },
      drop: closing[Symbol.dispose],
    };
  }
  pass(): void {
    const ids = CONTAINERS.filter((id) => this.up.has(id) && this.by.get(id) !== undefined);
    const mode = (id: string): string => (this.by.get(id) === 'drawbridge' ? 'enforce' : 'observe');
    const running = (id: string) => ({ id, state: this.up.has(id) ? 'running' : 'exited', networkMode: 'n' });
    this.places = {};
    this.dns.applied({
      places: this.places,
      subjects: new Map(ids.map((id) => [id, { policy: { mode: mode(id) } }])),
      view: { containers: new Map(CONTAINERS.map((id) => [id, running(id)])) },
    } as unknown as AppliedState);
  }
}

const act = fc.record({
  id: fc.constantFrom(...CONTAINERS),
  what: fc.constantFrom(
    ...([
      'start',
      'appear',
      'arrive',
      'inspect',
      'report',
      'pass',
      'pass',
      'end',
      'refuse',
      'accept',
      'rest',
    ] as const),
  ),
  by: fc.constantFrom<By>('drawbridge', 'docker', undefined),
  needs: fc.boolean(),
});
type Act = typeof act extends fc.Arbitrary<infer T> ? T : never;

async function happens(w: World, { id, what, by, needs }: Act): Promise<void> {
  const path = w.path(id);
  if (what === 'start' && !w.up.has(id)) {
    w.run.set(id, (w.run.get(id) ?? 0) + 1);
    w.up.add(id);
    w.by.set(id, by);
    w.needs.set(id, needs);
  } else if (what === 'appear' && w.up.has(id) && !w.sockets.has(path))
    w.dns.appeared(path, () => w.prepared(path));
  else if (what === 'arrive' && w.up.has(id)) w.dns.arrived(id, CONTAINERS.indexOf(id));
  else if (what === 'inspect' && w.up.has(id)) {
    w.inspected.add(id);
    w.by.set(id, by ?? 'docker');
    w.dns.reported();
  } else if (what === 'report') w.dns.reported();
  else if (what === 'pass') w.pass();
  else if (what === 'end') {
    w.up.delete(id);
    w.inspected.delete(id);
  } else if (what === 'refuse') w.isRefusing = true;
  else if (what === 'accept') w.isRefusing = false;
  else await settled();
}
const settled = (): Promise<void> => new Promise((resume) => setImmediate(resume));

it('leaves each namespace with the one resolver that is due, and nothing open at the end', async () => {
  const order = fc.asyncProperty(fc.array(act, { maxLength: 40, size: 'max' }), async (acts) => {
    const w = new World();
    for (const one of acts) await happens(w, one);
    w.isRefusing = false;
    for (const id of w.up) {
      w.inspected.add(id);
      if (w.by.get(id) === undefined) w.by.set(id, 'docker');
    }
    for (let n = 0; n < 3; n++) {
      await settled();
      w.dns.reported();
      w.pass();
      await w.dns.whole(1_000);
    }
    await settled();
    const paths = CONTAINERS.filter((id) => w.up.has(id)).map((id) => w.path(id));
    // queries of a container that nothing has shown wait for ten seconds
    const open = [...w.sockets].filter(([path, use]) => !paths.includes(path) && use !== 'waiting');
    expect(open).toEqual([]);
    for (const id of w.up) {
      const state = w.sockets.get(w.path(id));
      if (w.by.get(id) === 'docker') expect(state ?? 'passed').toBe('passed');
      else if (w.needs.get(id) === true) expect(state).toBe('answered');
      // No rule redirects to closed sockets, or to sockets whose queries Docker's resolver has to answer.
      expect(w.rules.has(w.path(id))).toBe(state === 'answered');
      expect(w.dns.status(id)).toBe(state === 'answered' ? 'attached' : 'none');
    }
    await w.dns.close();
    expect([...w.sockets]).toEqual([]);
  });
  await fc.assert(order, { numRuns: 300 });
});
