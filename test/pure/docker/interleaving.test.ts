/** Any order of events and answers ends in what the engine holds: a small engine, with answers as late as they like. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { DockerState, type Outcome, viewOf } from '../../../src/docker/docker-state.js';
import { readContainers, readInspect } from '../../../src/docker/read-containers.js';
import { readNetwork } from '../../../src/docker/read-networks.js';
import type { EngineEvent } from '../../../src/policy/engine.js';
import { containerInspect, ID, listItem, networkInspect } from './samples.js';

const NETWORKS = ['e', 'f'].map(ID);
type Answer = (state: DockerState) => Outcome;
interface Sim {
  name: string;
  /** While it is renamed: lists return it too. */
  former?: string | undefined;
  up: boolean;
  attached: Set<string>;
  addresses: Map<string, number>;
}

/** The engine's truth; each operation changes it and then tells, as moby does. */
class SimEngine {
  readonly containers = new Map<string, Sim>();
  readonly events: EngineEvent[] = [];
  /** Another time for each event and each answer: both the state's clock and the engine's. */
  time = 0;
  #next = 2;

  /** Ids are never used twice, as Docker's are not: a slot gets a new one with each container. */
  readonly #slots = new Map<number, string>();

  operate(op: number, slot: number, network: string): void {
    const id = this.#slots.get(slot) ?? '';
    const c = this.containers.get(id);
    if (c) c.former = undefined; // an operation waits until the rename before it has ended
    if (!c) this.#create(slot, network);
    else if (op === 0 && !c.up) this.#start(id, c);
    else if (op === 1 && c.up) this.#stop(id, c);
    else if (op === 2) this.#destroy(id, c);
    else if (op === 3) this.#rename(id, c);
    else if (op === 4) this.#toggle(id, c, network);
    else if (op === 5 && !c.up) this.#failToStart(id, c);
  }
  #tell(action: 'create' | 'start' | 'die' | 'destroy' | 'rename', id: string): void {
    this.events.push({ kind: 'container', action, id, at: ++this.time });
  }
  #join(id: string, c: Sim, network: string): void {
    c.addresses.set(network, this.#next++);
    this.events.push({ kind: 'attach', action: 'connect', network, id, at: ++this.time });
  }
  #leave(id: string, c: Sim, network: string): void {
    c.addresses.delete(network);
    this.events.push({ kind: 'attach', action: 'disconnect', network, id, at: ++this.time });
  }
  #create(slot: number, network: string): void {
    const id = (this.#next++).toString(16).padStart(64, '0');
    this.#slots.set(slot, id);
    this.containers.set(id, {
      name: `n${this.#next++}`,
      up: false,
      attached: new Set([network]),
      addresses: new Map(),
    });
    this.#tell('create', id);
  }
  #start(id: string, c: Sim): void {
    for (const network of c.attached) this.#join(id, c, network);
    c.up = true;
    this.#tell('start', id);
  }
  /** Its networks are given back, and nothing is said of its state. */
  #failToStart(id: string, c: Sim): void {
    for (const network of c.attached) this.#join(id, c, network);
    for (const network of c.attached) this.#leave(id, c, network);
  }
  #stop(id: string, c: Sim): void {
    for (const network of c.attached) this.#leave(id, c, network);
    c.up = false;
    this.#tell('die', id);
  }
  #destroy(id: string, c: Sim): void {
    if (c.up) this.#stop(id, c);
    this.containers.delete(id);
    this.#tell('destroy', id);
  }
  #rename(id: string, c: Sim): void {
    c.former = c.name;
    c.name = `n${this.#next++}`;
    this.#tell('rename', id); // before the former name is released (moby daemon/rename.go)
  }
  #toggle(id: string, c: Sim, network: string): void {
    const had = c.attached.delete(network);
    if (!had) c.attached.add(network);
    if (c.up) had ? this.#leave(id, c, network) : this.#join(id, c, network);
  }

  list(): unknown {
    return [...this.containers].map(([Id, c]) =>
      listItem({
        Id,
        Names: [c.former, c.name].filter((n) => n !== undefined).map((n) => `/${n}`),
        State: c.up ? 'running' : 'created',
        Ports: [],
        NetworkSettings: {},
      }),
    );
  }
  network(Id: string): unknown {
    const members = [...this.containers].filter(([, c]) => c.addresses.has(Id));
    const shown = members.map(([id, c]) => {
      const n = (c.addresses.get(Id) ?? 0).toString(16).padStart(4, '0');
      return [id, { MacAddress: `02:42:00:00:${n.slice(0, 2)}:${n.slice(2)}`, IPv6Address: `fd00::${n}/64` }];
    });
    return networkInspect({ Id, Containers: Object.fromEntries(shown) });
  }
  inspect(Id: string): unknown {
    const c = this.containers.get(Id);
    if (c) c.former = undefined; // an inspect is answered after the rename
    const up = c?.up ?? false;
    return containerInspect({
      Id,
      Name: `/${c?.name}`,
      State: { Running: up, Pid: up ? 7 : 0 },
      NetworkSettings: {},
    });
  }
}

/** A want becomes a request (its beginning is noted), then an answer (the truth at that moment), then news. */
class Client {
  readonly state = new DockerState();
  readonly requests: (() => Answer)[] = [];
  readonly answers: Answer[] = [];
  readonly #engine: SimEngine;
  #told: string;
  #version = 0;
  /** Answers of full lists that changed nothing and wanted nothing, with the version of the state by then (as Fetcher has them). */
  readonly #settled = new Map<string, string>();
  settledAgain = 0;
  constructor(engine: SimEngine) {
    this.#engine = engine;
    this.#told = JSON.stringify(shown(this.state));
  }
  take(outcome: Outcome): void {
    // nobody is told of a view that is said not to have changed
    const now = JSON.stringify(shown(this.state));
    if (!outcome.changed || this.state.version === this.#version) expect(now).toBe(this.#told);
    this.#told = now;
    this.#version = this.state.version;
    const begun = this.state.seq;
    for (const want of outcome.wants) {
      this.requests.push(() =>
        want.kind === 'list' ? this.#list(want.id, begun) : this.#one(want.kind, want.id, begun),
      );
    }
  }
  #list(id: string, begun: number): Answer {
    const items = (readContainers(this.#engine.list(), []) ?? []).filter((c) => c.id === id);
    const askedAt = ++this.#engine.time;
    return (s) => s.list(items, new Set([id]), begun, 0, askedAt);
  }
  #one(kind: 'network' | 'inspect', id: string, begun: number): Answer {
    const askedAt = ++this.#engine.time;
    if (kind === 'network') {
      const network = readNetwork(this.#engine.network(id), []);
      return (s) => s.network(id, network, begun, 0, askedAt);
    }
    const inspected = readInspect(this.#engine.inspect(id));
    const known = this.#engine.containers.has(id);
    return (s) => (known && inspected ? s.inspected(inspected, begun, 0) : s.absent(id, begun));
  }
  full(): void {
    const begun = this.state.seq;
    const list = this.#engine.list();
    const items = readContainers(list, []) ?? [];
    const askedAt = ++this.#engine.time;
    this.answers.push(this.#again('list', list, begun, (s) => s.list(items, 'all', begun, 0, askedAt)));
    for (const id of NETWORKS) {
      const network = this.#engine.network(id);
      this.answers.push(this.#again(id, network, begun, this.#one('network', id, begun)));
    }
  }
  /** An answer that is settled would change nothing and want nothing when it is taken in again. */
  #again(key: string, content: unknown, begun: number, answer: Answer): Answer {
    return (s) => {
      const text = JSON.stringify(content);
      const isSettled = !s.isStarting && this.#settled.get(key) === `${s.version} ${text}`;
      const outcome = answer(s);
      if (isSettled) expect(outcome).toEqual({ changed: false, wants: [] });
      this.settledAgain += Number(isSettled);
      const isQuiet = !outcome.changed && outcome.wants.length === 0 && begun === s.seq;
      if (isQuiet) this.#settled.set(key, `${s.version} ${text}`);
      else this.#settled.delete(key);
      return outcome;
    };
  }
  step(kind: number, at: number): void {
    const event = kind === 0 ? this.#engine.events.shift() : undefined;
    if (event) this.take(this.state.event(event, 0, event.at));
    const request =
      kind === 1 ? this.requests.splice(at % Math.max(this.requests.length, 1), 1)[0] : undefined;
    if (request) this.answers.push(request());
    const answer = kind === 2 ? this.answers.splice(at % Math.max(this.answers.length, 1), 1)[0] : undefined;
    if (answer) this.take(answer(this.state));
  }
  drain(): void {
    for (let i = 0; i < 10_000; i += 1) {
      if (this.#engine.events.length + this.requests.length + this.answers.length === 0) return;
      // Events first and the newest answer first, so that the oldest answers come last.
      const kind = this.#engine.events.length > 0 ? 0 : this.requests.length > 0 ? 1 : 2;
      this.step(kind, kind === 2 ? this.answers.length - 1 : 0);
    }
    throw new Error('requests never end');
  }
}

function shown(state: DockerState): unknown {
  const view = viewOf(state, () => undefined, { listings: 0, listBegan: 0, connected: true });
  const containers = [...view.containers.values()].map((c) => ({
    id: c.id,
    name: c.name,
    up: c.state === 'running',
    pid: c.privileges?.pid ?? 0,
    ends: c.endpoints.map((e) => `${e.networkId[0]} ${e.mac}`).sort(),
  }));
  return { containers: containers.sort((a, b) => a.id.localeCompare(b.id)), starting: [...view.starting] };
}
function truth(engine: SimEngine): unknown {
  const containers = [...engine.containers].map(([id, c]) => ({
    id,
    name: c.name,
    up: c.up,
    pid: c.up ? 7 : 0,
    ends: [...c.addresses]
      .map(
        ([network, n]) =>
          `${network[0]} 02:42:00:00:${n
            .toString(16)
            .padStart(4, '0')
            .replace(/(..)(..)/, '$1:$2')}`,
      )
      .sort(),
  }));
  return { containers: containers.sort((a, b) => a.id.localeCompare(b.id)), starting: [] };
}

it('ends in the truth', () => {
  let settledAgain = 0;
  const step = fc.record({
    kind: fc.integer({ min: 0, max: 9 }),
    op: fc.nat(5),
    at: fc.nat(50),
    n: fc.nat(1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const engine = new SimEngine();
      const client = new Client(engine);
      for (const { kind, op, at, n } of steps) {
        if (kind === 9) client.full();
        else if (kind >= 6) engine.operate(op, at % 3, NETWORKS[n] ?? '');
        else client.step(kind % 3, at);
      }
      client.drain();
      expect(shown(client.state)).toEqual(truth(engine));
      for (let n = 0; n < 3; n++) {
        client.full();
        client.drain();
      }
      settledAgain += client.settledAgain;
      expect(shown(client.state)).toEqual(truth(engine));
    }),
    { numRuns: 300 },
  );
  expect(settledAgain).toBeGreaterThan(300);
});
