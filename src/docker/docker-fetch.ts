/** Requests from the engine what the state needs, and enters the answers into the state. */

import { eachOf } from '../lib/async.js';
import { putNewest } from '../lib/fair-shares.js';
import type { Logger } from '../lib/log.js';
import { KeyedRunner } from '../lib/runners.js';
import type { NetworkFacts } from '../policy/container.js';
import type { MayWait, ViewChange } from '../policy/engine.js';
import { type Answer, type DockerApi, DockerError } from './docker-api.js';
import type { DockerState, Outcome } from './docker-state.js';
import type { Notes } from './docker-values.js';
import { type Listed, readContainers, readImageLabels, readInspect } from './read-containers.js';
import { type InspectedNetwork, readNetwork, readNetworks, readServices } from './read-networks.js';
import { isLocal, isOverlay, type Want } from './tracked-container.js';

export interface FetcherParts {
  readonly engine: DockerApi;
  readonly state: DockerState;
  readonly log: Logger;
  readonly now: () => number;
  /** Takes each answer's outcome. */
  readonly publish: (outcome: Outcome, change: ViewChange) => void;
  /** Called when the engine refuses a needed answer repeatedly: the connection must be opened again. */
  readonly giveUp: () => void;
}

const WIDTH = 8;
const MAX_IMAGES = 1_000;
/** So few are inspected at once in any case. */
const FEW = 64;
/** The inspects that have waited: so many at the same time, and with this pause (ms) between two groups. */
const LATE = { atOnce: 8, pauseMs: 20 };
/**
 * Image labels are waited for that long; without them every label counts as the image's. Containers of the first list may be running, with
 * the rules that an earlier process of the service has left: until that list is taken in, these rules stay as they are.
 */
const IMAGE_WAIT_MS = { first: 5_000, later: 1_000 };
/** Requests for an image that the engine has left without an answer: after so many, its labels count as unknown. */
const IMAGE_TRIES = 3;
/** Keys of the settled answers that are not ids of networks. */
const LISTS: readonly string[] = ['containers', 'networks'];
const RETRY_MS = [10, 50, 200, 500];

export class Fetcher {
  readonly #parts: FetcherParts;
  /** Image id → labels, oldest use first: an image's id is the hash of its content, its labels never change. */
  readonly #images = new Map<string, Readonly<Record<string, string>>>();
  /** By image id: requests in a row that had no answer. */
  readonly #unanswered = new Map<string, number>();
  #hasListed = false;
  readonly #networks: KeyedRunner;
  readonly #inspects: KeyedRunner;
  readonly #lists: KeyedRunner;
  readonly #toList = new Set<string>();
  /** Answers that have changed nothing, by network id or kind of list, each with the version of the state by then. */
  readonly #settled = new Map<string, { readonly digest: string; readonly version: number }>();
  /** Whether the inspect of a container on these networks may wait until `inspectRest` is called. */
  mayWait: MayWait = () => false;
  /** The ids of the containers that `inspectRest` will inspect. Undefined after it has been called. */
  #rest: string[] | undefined = [];
  /** Containers that will be inspected next, without those in `#inspects`. */
  #due = 0;
  #epoch = 0;
  /** Sequence numbers at which the requests under way were begun. */
  readonly #begun = new Set<{ readonly seq: number }>();

  constructor(parts: FetcherParts) {
    this.#parts = parts;
    this.#networks = new KeyedRunner(WIDTH, (id) => this.#retried(`network ${id}`, () => this.network(id)));
    this.#inspects = new KeyedRunner(WIDTH, (id) =>
      this.#retried(`container ${id}`, () => this.#inspect(id)),
    );
    this.#lists = new KeyedRunner(1, () => this.#retried('container list', () => this.#listWanted()));
  }

  /** Another number after each change of `imageLabels`. */
  imageChanges = 0;
  readonly imageLabels = (imageId: string): Readonly<Record<string, string>> | undefined =>
    this.#images.get(imageId);

  /** Containers that are being inspected, or wait for it; the one with the answer that is taken in now is included. */
  get inspecting(): number {
    return this.#inspects.size + this.#due;
  }

  want(wants: readonly Want[]): void {
    for (const want of wants) {
      if (want.kind === 'network') this.#networks.request(want.id);
      else if (want.kind === 'inspect') this.#inspects.request(want.id);
      else {
        this.#toList.add(want.id);
        this.#lists.request('containers');
      }
    }
  }

  /** Inspects those of the containers that wait for which `isWanted` is true. Resolves when all have been inspected. */
  async inspectNow(isWanted: (id: string) => boolean): Promise<void> {
    const ids = this.#rest?.filter(isWanted) ?? [];
    const wanted = new Set(ids);
    this.#rest = this.#rest?.filter((id) => !wanted.has(id));
    this.#due = ids.length;
    const epoch = this.#epoch;
    await eachOf(ids, WIDTH, async (id) => {
      if (this.#epoch === epoch) await this.#retried(`container ${id}`, () => this.#inspect(id));
      this.#due -= 1;
    });
  }

  /**
   * Inspects the containers of the first list that have waited, at a bounded rate. Policies, addresses and the rules are made from lists:
   * only coverage, scans and DNS aliases need the facts of an inspect, and nothing is permitted by them.
   */
  async inspectRest(): Promise<void> {
    const ids = this.#rest ?? [];
    this.#rest = undefined;
    const epoch = this.#epoch;
    for (let i = 0; i < ids.length && this.#epoch === epoch; i += LATE.atOnce) {
      this.#due = Math.max(0, ids.length - i - LATE.atOnce);
      for (const id of ids.slice(i, i + LATE.atOnce)) this.#inspects.request(id);
      await new Promise((resolve) => setTimeout(resolve, LATE.pauseMs));
    }
    this.#due = 0;
  }

  /** Forget the requests that wait or must be tried again; a full list repeats all of them. */
  clear(): void {
    this.#epoch += 1;
    for (const runner of [this.#networks, this.#inspects, this.#lists]) runner.clear();
    this.#toList.clear();
    this.#settled.clear();
    if (this.#rest) this.#rest = [];
  }

  /** The requests without the inspects that may wait: those of many containers of which the kernel shows the namespace. */
  #urgent(
    wants: readonly Want[],
    listed: readonly Listed[],
    networks: readonly NetworkFacts[],
  ): readonly Want[] {
    const inspects = wants.filter((w) => w.kind === 'inspect');
    if (!this.#rest || inspects.length <= FEW) return wants;
    const byNetwork = new Map(networks.map((n) => [n.id, n]));
    const late = listed.filter(
      (c) => c.name !== undefined && this.mayWait(c.endpoints.map((e) => byNetwork.get(e.networkId))),
    );
    const ids = new Set(late.map((c) => c.id));
    this.#rest = inspects.map((w) => w.id).filter((id) => ids.has(id));
    return wants.filter((w) => w.kind !== 'inspect' || !ids.has(w.id));
  }

  /** A full list: containers, networks and the members of every local network. Returns whether anything changed. */
  async everything(): Promise<boolean> {
    const { engine, state, now } = this.#parts;
    return this.#request(async (begun, notes, askedAt) => {
      const [containers, networks] = await Promise.all([engine.allContainers(), engine.networks()]);
      const read = () => needed(readContainers(containers.value(), notes), 'container list');
      const early = this.#isSettled('containers', containers) ? undefined : read();
      await this.#knowImages(early ?? [...state.containers.values()].flatMap((t) => t.fixed ?? []));
      let changed = false;
      if (this.#isSettled('networks', networks)) state.confirmNetworks(askedAt);
      else {
        const facts = needed(readNetworks(networks.value(), notes), 'network list');
        const outcome = state.networkList(facts, begun, now(), askedAt);
        this.#settle('networks', networks, { begun, notes, outcome });
        changed = outcome.changed;
      }
      const all = [...state.networks.values()];
      const local = all.filter(isLocal);
      if (this.#isSettled('containers', containers)) state.confirmList(askedAt);
      else {
        const listed = early ?? read();
        const outcome = state.list(listed, 'all', begun, now(), askedAt);
        this.#settle('containers', containers, { begun, notes, outcome });
        this.want(this.#urgent(outcome.wants, listed, all).filter((w) => !isAskedNext(w, local)));
        changed = outcome.changed || changed;
      }
      await eachOf(local, WIDTH, async (n) => {
        const member = await this.#confirmedMember(n.id);
        this.want(member.wants);
        changed = member.changed || changed;
      });
      for (const key of this.#settled.keys())
        if (!LISTS.includes(key) && !state.networks.has(key)) this.#settled.delete(key);
      for (const n of all.filter(isOverlay)) changed = (await this.#services(n.id)) || changed;
      this.#hasListed = true;
      return changed;
    });
  }

  /** An answer that is as it was when it changed nothing and wanted nothing, in a state that has not changed since: it would do so again. */
  #isSettled(key: string, { digest }: Answer): boolean {
    const { state } = this.#parts;
    const settled = this.#settled.get(key);
    return settled?.digest === digest && settled.version === state.version && !state.isStarting;
  }

  /** After an answer was taken in. An event since the request was begun, or a part that cannot be read, means that it is taken in again. */
  #settle(
    key: string,
    { digest }: Answer,
    { begun, notes, outcome }: { readonly begun: number; readonly notes: Notes; readonly outcome: Outcome },
  ): void {
    const { seq, version } = this.#parts.state;
    const isSettled = !outcome.changed && outcome.wants.length === 0 && notes.length === 0 && begun === seq;
    if (isSettled) this.#settled.set(key, { digest, version });
    else this.#settled.delete(key);
  }

  async network(id: string): Promise<InspectedNetwork | undefined> {
    const { inspected, ...outcome } = await this.#member(id);
    this.#parts.publish(outcome, { kind: 'inspect', object: 'network', id });
    if (inspected && isOverlay(inspected.network)) {
      const changed = await this.#services(inspected.network.id);
      this.#parts.publish({ changed, wants: [] }, { kind: 'inspect', object: 'services', id });
    }
    return inspected;
  }

  /** No event reports services: tasks of other hosts appear with the next list. Returns whether they have changed. */
  async #services(id: string): Promise<boolean> {
    const json = await found(this.#parts.engine.networkServices(id)).catch((err: unknown) => {
      this.#parts.log.warn(
        { err, network: id },
        'cannot read the services of an overlay network: the last known ones stay',
      );
      return undefined;
    });
    return json !== undefined && this.#parts.state.services(id, readServices(json));
  }

  #member(id: string): Promise<Outcome & { readonly inspected: InspectedNetwork | undefined }> {
    return this.#request(async (begun, notes, askedAt) => {
      const answer = await found(this.#parts.engine.network(id));
      return this.#takeMember(id, answer, { begun, notes, askedAt });
    });
  }

  /** As `#member`, for a network that is asked again and again. */
  #confirmedMember(id: string): Promise<Outcome> {
    const { engine, state } = this.#parts;
    return this.#request(async (begun, notes, askedAt) => {
      const answer = await found(engine.network(id));
      if (answer && this.#isSettled(id, answer)) {
        state.confirmNetwork(id, askedAt);
        return { changed: false, wants: [] };
      }
      const outcome = this.#takeMember(id, answer, { begun, notes, askedAt });
      if (answer) this.#settle(id, answer, { begun, notes, outcome });
      else this.#settled.delete(id);
      return outcome;
    });
  }

  #takeMember(
    id: string,
    answer: Answer | undefined,
    { begun, notes, askedAt }: { readonly begun: number; readonly notes: Notes; readonly askedAt: number },
  ): Outcome & { readonly inspected: InspectedNetwork | undefined } {
    const { state, now } = this.#parts;
    const inspected = answer && needed(readNetwork(answer.value(), notes), `network ${id}`);
    return { ...state.network(inspected?.network.id ?? id, inspected, begun, now(), askedAt), inspected };
  }

  async #listWanted(): Promise<void> {
    const { engine, state, now, publish } = this.#parts;
    const ids = [...this.#toList];
    if (ids.length === 0) return;
    // before the request: an event that comes meanwhile needs a later answer than this
    this.#toList.clear();
    await this.#request(async (begun, notes, askedAt) => {
      const listed = needed(readContainers(await engine.containers(ids), notes), 'container list');
      await this.#knowImages(listed);
      publish(state.list(listed, new Set(ids), begun, now(), askedAt), { kind: 'list' });
    }).catch((error: unknown) => {
      for (const id of ids) this.#toList.add(id);
      throw error;
    });
  }

  async #inspect(id: string): Promise<void> {
    const { engine, state, now, publish } = this.#parts;
    await this.#request(async (begun) => {
      const json = await found(engine.container(id));
      const outcome =
        json === undefined
          ? state.absent(id, begun)
          : state.inspected(needed(readInspect(json), `container ${id}`), begun, now());
      publish(outcome, { kind: 'inspect', object: 'container', id });
    });
  }

  /** Throws DockerError when the engine has closed the connection: then the list that needs the images is requested again. */
  async #knowImages(listed: readonly Pick<Listed, 'imageId'>[]): Promise<void> {
    const ids = [...new Set(listed.map((c) => c.imageId))].filter((id) => id !== '' && !this.#known(id));
    if (ids.length === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#hasListed ? IMAGE_WAIT_MS.later : IMAGE_WAIT_MS.first);
    });
    try {
      await Promise.race([eachOf(ids, WIDTH, (id) => this.#image(id)), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #known(imageId: string): boolean {
    const labels = this.#images.get(imageId);
    if (labels) putNewest(this.#images, imageId, labels, MAX_IMAGES);
    return labels !== undefined;
  }

  /** An image that was removed while its containers exist stays unknown: their labels then count as labels of the image. */
  async #image(id: string): Promise<void> {
    const json = await found(this.#parts.engine.image(id)).catch((error: unknown) => {
      if (error instanceof DockerError && error.status === undefined && this.#isTriedAgain(id)) throw error;
      this.#parts.log.warn(
        { err: error, image: id },
        'cannot read the labels of an image: labels of its containers count as labels of the image',
      );
      return undefined;
    });
    const labels = json === undefined ? undefined : readImageLabels(json);
    if (!labels) return;
    this.#unanswered.delete(id);
    putNewest(this.#images, id, labels, MAX_IMAGES);
    this.imageChanges += 1;
    this.#parts.publish({ changed: true, wants: [] }, { kind: 'inspect', object: 'image', id });
  }

  #isTriedAgain(image: string): boolean {
    const tries = (this.#unanswered.get(image) ?? 0) + 1;
    if (tries < IMAGE_TRIES) this.#unanswered.set(image, tries);
    return tries < IMAGE_TRIES;
  }

  /** Remembers when the request was begun, and logs what of its answer could not be read. */
  async #request<T>(work: (begun: number, notes: Notes, askedAt: number) => Promise<T>): Promise<T> {
    const askedAt = this.#parts.now();
    const begun = { seq: this.#parts.state.seq };
    const notes: Notes = [];
    this.#begun.add(begun);
    try {
      return await work(begun.seq, notes, askedAt);
    } finally {
      this.#begun.delete(begun);
      this.#parts.state.forgetBefore(Math.min(this.#parts.state.seq, ...[...this.#begun].map((b) => b.seq)));
      if (notes.length > 0)
        this.#parts.log.warn({ notes: notes.slice(0, 20) }, 'parts of an answer of Docker cannot be read');
    }
  }

  /** Try a few times, quickly; then open the whole connection again, which lists everything. */
  async #retried(what: string, task: () => Promise<unknown>): Promise<void> {
    const epoch = this.#epoch;
    let last: unknown;
    for (const ms of RETRY_MS) {
      try {
        await task();
        return;
      } catch (error) {
        last = error;
        await new Promise((resolve) => setTimeout(resolve, ms));
        if (this.#epoch !== epoch) return;
      }
    }
    this.#parts.log.warn({ err: last, what }, 'Docker refuses a needed answer repeatedly: connecting again');
    this.#parts.giveUp();
  }
}

/** The members of these networks are requested right after the list, which is why it needs no request of its own. */
const isAskedNext = (want: Want, networks: readonly NetworkFacts[]): boolean =>
  want.kind === 'network' && networks.some((n) => n.id === want.id);

/** Undefined for 404; other failures stay failures. */
async function found<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof DockerError && error.status === 404) return undefined;
    throw error;
  }
}

function needed<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`Docker's answer for the ${what} is not what its API promises`);
  return value;
}
