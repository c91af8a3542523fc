/**
 * Keeps a `DockerView` current: subscribes to events and lists, and does so again after every reconnect. What an event
 * asks for (a network's members first of all) is fetched at once and never behind a container's inspect, which blocks
 * for 150–190 ms while a container starts.
 */

import { Coalescer } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import type { DockerView } from '../policy/container.js';
import {
  describeChange,
  type EngineConnection,
  type EngineInfo,
  type MayWait,
  type ResolverFacts,
  type ViewChange,
  type ViewListener,
} from '../policy/engine.js';
import { DockerApi } from './docker-api.js';
import { EventStream, readEvent } from './docker-events.js';
import { Fetcher } from './docker-fetch.js';
import { DockerState, type Outcome, showSame, viewOf } from './docker-state.js';
import { readDaemon } from './docker-values.js';
import type { InspectedNetwork } from './read-networks.js';
import { readResolver } from './resolv-conf.js';
import { namespaceOwner } from './tracked-container.js';

export interface WatchOptions {
  /** Path of the engine's unix socket. */
  readonly socket: string;
  readonly log: Logger;
  /** Monotonic milliseconds, such as `performance.now`. */
  readonly now: () => number;
  /** How often a full list checks the events (ms); default 30 s. */
  readonly resyncMs?: number;
}

const RESYNC_MS = 30_000;
/** A healthy engine answers within milliseconds, an inspect of a container that starts within 200. */
const SILENT_MS = 2_000;
/** Nothing that the first packets of a container need comes from its inspect. Many are inspected at once only after a start or an outage. */
const GATHER_MS = { few: 20, many: 500 };
const MANY = 64;
/** dockerd replays its last 256 events of all types (moby daemon/events, `eventsLimit`): far more than happen in this time. */
const REPLAYED_MS = 1_000;
/** The clock of the system has whole milliseconds. An event that seems older than it is would be taken for one of an earlier life. */
const CLOCK_MS = 2;
/** The files of so many containers are read before other tasks have their turn. */
const READ_AT_ONCE = 32;

/** Docker as the engine. */
export class DockerWatch implements EngineConnection {
  readonly #options: WatchOptions;
  readonly #engine: DockerApi;
  readonly #state = new DockerState();
  readonly #fetcher: Fetcher;
  readonly #lists: Coalescer<void>;
  readonly #listeners = new Set<ViewListener>();
  readonly #stream: EventStream;
  #view: DockerView;
  /** The source of the newest view. */
  #derivedFrom = '';
  #meta = { listings: 0, listBegan: Number.NEGATIVE_INFINITY, connected: false };
  #daemon: Promise<EngineInfo> | undefined;
  #resolversRead = 0;
  /** The list that was requested with the stream of a connection that is being opened. */
  #opening: { readonly began: number; readonly list: Promise<void> } | undefined;
  #firstList: { resolve(): void; reject(error: Error): void } | undefined;
  /** Inspects that are published together with those that follow, and the timer that ends the wait. */
  #gathered: { change: ViewChange; changed: boolean; readonly timer: NodeJS.Timeout } | undefined;

  constructor(options: WatchOptions) {
    this.#options = options;
    this.#engine = new DockerApi(options.socket);
    const { log, now } = options;
    this.#fetcher = new Fetcher({
      engine: this.#engine,
      state: this.#state,
      log,
      now,
      publish: (outcome, change) => this.#take(outcome, change),
      giveUp: () => this.#stream.restart(),
    });
    this.#lists = new Coalescer(() => this.#list());
    this.#stream = new EventStream({
      engine: this.#engine,
      log,
      resyncMs: options.resyncMs ?? RESYNC_MS,
      onLine: (line) => this.#event(line),
      onOpening: () => this.#connecting(),
      onOpen: () => this.#connected(),
      onEnd: () => this.#disconnected(),
      seq: () => this.#state.seq,
      isUnreported: () => this.#isUnreported(),
    });
    this.#view = this.#derive();
  }

  /** Begins to watch and returns at once; a socket that is not there yet is waited for. */
  start(): void {
    this.#stream.start();
  }

  /** Each connection begins with a full list, so that a `refresh` next to it would list everything twice. */
  async begin(mayWait: MayWait): Promise<DockerView> {
    this.#fetcher.mayWait = mayWait;
    const listed = new Promise<void>((resolve, reject) => (this.#firstList = { resolve, reject }));
    this.start();
    await listed;
    return this.#view;
  }

  view(): DockerView {
    return this.#view;
  }

  inspectOn(networks: ReadonlySet<string>): Promise<void> {
    return this.#fetcher.inspectNow((id) =>
      [...(this.#state.containers.get(id)?.endpoints.keys() ?? [])].some((network) => networks.has(network)),
    );
  }

  inspectRest(): void {
    void this.#fetcher.inspectRest();
  }

  onChange(listener: ViewListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Throws DockerError when the engine does not answer. */
  async refresh(): Promise<DockerView> {
    await this.#lists.run().catch((error: unknown) => this.#refused(error));
    return this.#view;
  }

  get answers(): boolean {
    return this.#meta.connected && this.#engine.waiting < SILENT_MS;
  }

  /** One network and its members, asked now; undefined when there is no such network. Throws DockerError. */
  inspectNetwork(id: string): Promise<InspectedNetwork | undefined> {
    return this.#fetcher.network(id).catch((error: unknown) => this.#refused(error));
  }

  /** Asks the engine now. Rejects with DockerError when it does not answer. */
  async info(): Promise<EngineInfo> {
    return readDaemon(await this.#engine.info());
  }

  /** A start uses the answer in several places, and reads the resolvers of all containers at the same time. */
  infoAtConnection(): Promise<EngineInfo> {
    if (this.#daemon) return this.#daemon;
    const asked = this.info();
    const forget = (): void => {
      if (this.#daemon === asked) this.#daemon = undefined;
    };
    this.#daemon = asked;
    asked.then(({ rootDir }) => rootDir === '' && forget(), forget);
    return asked;
  }

  /** From the file that Docker wrote for the owner of the container's namespace. */
  async resolver(id: string, sandbox = ''): Promise<ResolverFacts> {
    const all = this.#state.containers;
    const t = all.get(id);
    const owner = all.get((t && namespaceOwner(t, all)) ?? id);
    const sandboxKey = owner?.privileges?.sandboxKey || (owner === t ? sandbox : '');
    const { rootDir } = await this.infoAtConnection();
    if (++this.#resolversRead % READ_AT_ONCE === 0) await new Promise((resume) => setImmediate(resume));
    return readResolver({ rootDir, id: owner?.id ?? id, sandboxKey });
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    clearTimeout(this.#gathered?.timer);
    this.#fetcher.clear();
    await this.#stream.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A request failed, or its answer is not as the API promises: the view counts as late until it is complete again. */
  #refused(error: unknown): never {
    if (this.#meta.connected) this.#stream.restart();
    throw error;
  }

  #event(line: string): void {
    const event = readEvent(line);
    if (event === 'ignored') return;
    if (event === 'malformed') {
      this.#options.log.warn({ line: line.slice(0, 200) }, 'a Docker event cannot be read: listing again');
      this.#lists.run().catch(() => this.#stream.restart());
      return;
    }
    const now = this.#options.now();
    const late = event.at === undefined ? 0 : Math.max(0, Date.now() - event.at - CLOCK_MS);
    this.#take(this.#state.event(event, now, now - late), { kind: 'event', event });
  }

  #take(outcome: Outcome, change: ViewChange): void {
    // Requests first: a listener may take long.
    this.#fetcher.want(outcome.wants);
    if (change.kind === 'inspect' && change.object === 'container') this.#gather(outcome, change);
    else if (outcome.changed) this.#publish(change);
    else this.#view = this.#derive(); // nothing has changed, but the view is confirmed until a later time
  }

  /**
   * After a start every container is inspected, and each publication costs as much as all containers together: while further
   * inspects are under way, those of some milliseconds share one.
   */
  #gather({ changed }: Outcome, change: ViewChange): void {
    const left = this.#fetcher.inspecting - 1; // without this one
    const ms = left > MANY ? GATHER_MS.many : GATHER_MS.few;
    const timer = this.#gathered?.timer ?? setTimeout(() => this.#publishInspects(), ms);
    this.#gathered = { change, changed: changed || this.#gathered?.changed === true, timer };
    if (left === 0) this.#publishInspects();
  }

  #publishInspects(): void {
    const gathered = this.#gathered;
    this.#gathered = undefined;
    clearTimeout(gathered?.timer);
    if (gathered?.changed) this.#publish(gathered.change);
  }

  /** Lists what another engine may answer. */
  #listAnew(): Promise<void> {
    this.#state.invalidateInspects();
    this.#daemon = undefined;
    const list = this.#lists.run();
    this.infoAtConnection().catch(() => undefined); // asked early, because the resolvers of all containers are read next
    return list;
  }

  async #list(): Promise<void> {
    const began = this.#options.now();
    const changed = await this.#fetcher.everything();
    this.#meta = { ...this.#meta, listings: this.#meta.listings + 1, listBegan: began };
    if (changed) this.#publish({ kind: 'list' });
    else this.#confirm();
  }

  #disconnected(): void {
    this.#fetcher.clear();
    this.#opening = undefined;
    this.#firstList?.reject(new Error('Docker has not listed its containers'));
    if (!this.#meta.connected) return;
    this.#meta.connected = false;
    this.#publish({ kind: 'disconnected' });
  }

  #connecting(): void {
    const list = this.#listAnew();
    list.catch(() => undefined); // `#connected` lists again
    this.#opening = { began: this.#options.now(), list };
  }

  /** The list that was requested with the stream counts while the engine still has all events since then, and if it was answered. */
  async #connected(): Promise<void> {
    const opening = this.#opening;
    this.#opening = undefined;
    const isReplayed = opening !== undefined && this.#options.now() - opening.began < REPLAYED_MS;
    await (isReplayed ? opening.list.catch(() => this.#lists.run()) : this.#listAnew());
    this.#meta.connected = true;
    this.#publish({ kind: 'connected' });
    this.#firstList?.resolve();
  }

  /** Read a full list; true when it shows a change that an event always reports, and no event has come. */
  async #isUnreported(): Promise<boolean> {
    const { seq } = this.#state;
    const { containers } = this.#view;
    await this.#lists.run();
    return this.#state.seq === seq && differ(containers, this.#view.containers);
  }

  /** What a view shows depends on these, but for the times at which Docker was asked. */
  #source(): string {
    return `${this.#state.version} ${this.#fetcher.imageChanges} ${this.#meta.connected}`;
  }

  #derive(): DockerView {
    this.#derivedFrom = this.#source();
    return viewOf(this.#state, this.#fetcher.imageLabels, this.#meta);
  }

  /** A list has shown nothing new: the view is confirmed until a later time. What only people decide need not look at it again. */
  #confirm(): void {
    const isSame = this.#derivedFrom === this.#source();
    const now = this.#derive();
    const { content } = this.#view;
    this.#view = isSame || showSame(this.#view, now) ? { ...now, content } : now;
  }

  #publish(change: ViewChange): void {
    this.#view = this.#derive();
    for (const listener of this.#listeners) {
      try {
        listener(this.#view, change);
      } catch (error) {
        this.#options.log.error(
          { err: error, reason: describeChange(change) },
          'a listener of the Docker view failed',
        );
      }
    }
  }
}

/** Containers were added, removed, or changed state: an event always reports this. */
function differ(a: DockerView['containers'], b: DockerView['containers']): boolean {
  return a.size !== b.size || [...b.values()].some((c) => a.get(c.id)?.state !== c.state);
}
