import { lstatSync } from 'node:fs';
import type { Config } from '../config/config.js';
import { localSocketOf } from '../config/local-socket.js';
import { readRedisUrl } from '../config/redis-url.js';
import { type EngineFacts, engineFacts } from '../docker/daemon.js';
import type { DockerWatch } from '../docker/watch.js';
import { exec } from '../kernel/exec.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { hostFindings } from './coverage-host.js';
import type { OwnPlaces } from './coverage-places.js';
import type { HostFacts } from './host-facts.js';
import { MountWatch } from './mount-watch.js';
import { readHostFacts } from './read-host-facts.js';

export interface HostWatchOptions {
  readonly config: Config;
  readonly docker: DockerWatch;
  readonly state: () => AppliedState | undefined;
  readonly log: Logger;
}
const EVERY_MS = 60_000;
/** Changes of rules come in bursts. */
const SOON_MS = 2_000;

/** What is known of the host beside its containers: looked at every minute, and soon after somebody changed rules. */
export class HostWatch implements AsyncDisposable {
  readonly #o: HostWatchOptions;
  readonly own: OwnPlaces;
  readonly mounts: MountWatch;
  /** Undefined: it could not be looked at yet. */
  host: HostFacts | undefined;
  /** Undefined while Docker does not answer, and has not before. */
  engine: EngineFacts | undefined;
  #timer: NodeJS.Timeout | undefined;
  #soon = false;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  readonly #news: Disposable;

  constructor(options: HostWatchOptions) {
    this.#o = options;
    const { docker, store, state, allowlists } = options.config;
    const redis = store.redis === '' ? undefined : readRedisUrl(store.redis);
    this.own = {
      dockerSocket: docker.socket,
      apiSocket: localSocketOf(options.config),
      state,
      allowlists,
      exists: existsOnHost,
      ...(redis?.ok && redis.value.socket !== undefined ? { storeSocket: redis.value.socket } : {}),
    };
    this.mounts = new MountWatch({
      own: this.own,
      containers: () => options.docker.view().containers.values(),
      dataRoot: () => this.engine?.dataRoot,
      log: options.log,
    });
    this.#news = options.docker.onChange(() => void this.mounts.refresh('new'));
  }

  /** Ids of the networks whose bridge is held. */
  get managed(): ReadonlySet<string> {
    return new Set([...(this.#o.state()?.vethMap.bridges.values() ?? [])].map((b) => b.network.id));
  }

  /** Looks now, and from now on. */
  async start(): Promise<void> {
    await this.#look();
    this.#arm(EVERY_MS);
  }

  /** Somebody changed rules: a look in a moment. */
  changed(): void {
    if (this.#soon) return;
    this.#soon = true;
    this.#arm(SOON_MS);
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#soon = false;
      this.#running = this.#look().then(() => this.#arm(this.#soon ? SOON_MS : EVERY_MS));
    }, ms).unref();
  }

  /** What cannot be read stays as it was last known. Docker's answer is not waited for: it may hang. */
  async #look(): Promise<void> {
    void this.#askDocker();
    const bridges = new Set(this.#o.state()?.vethMap.bridges.keys());
    try {
      this.host = await readHostFacts(exec, this.#o.config.kernel.prefix, bridges);
    } catch (e) {
      this.#o.log.warn({ err: String(e) }, 'cannot look at the rules of others on this host');
    }
  }

  async #askDocker(): Promise<void> {
    // Docker is away: its watch says so.
    const facts = await this.#o.docker.daemonInfo().catch(() => undefined);
    if (!facts) return;
    const before = this.engine?.firewallBackend;
    this.engine = engineFacts(facts);
    void this.mounts.refresh('all');
    if (this.engine.firewallBackend === before) return;
    for (const f of hostFindings({ host: undefined, engine: this.engine, failure: 'closed' }))
      this.#o.log[f.state === 'enforced' ? 'warn' : 'error']({ remedy: f.remedy }, f.detail);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#news[Symbol.dispose]();
    await this.#running;
  }
}

/** The root of process 1, which a container without SYS_PTRACE cannot enter. */
const ROOT = '/proc/1/root';

/** Whether a path without symbolic links in it exists on the host; undefined: the host's files cannot be read from here. */
const existsOnHost = (path: string): boolean | undefined =>
  isThere(`${ROOT}/proc`) ? isThere(`${ROOT}${path}`) : undefined;

const isThere = (path: string): boolean => {
  try {
    lstatSync(path);
    return true;
  } catch {
    return false; // ENOENT, or EACCES
  }
};
