import { hash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Config } from '../config/config.js';
import { readRedisUrl } from '../config/redis-url.js';
import { localSocketOf } from '../config/service-socket.js';
import { exec } from '../kernel/exec.js';
import type { Kernel } from '../kernel/kernel.js';
import { isWithin, type Location, type MountTable, parseMountInfo } from '../kernel/mount-info.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { codeOrText } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Engine, EngineInfo } from '../policy/engine.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { type DeviceFacts, type DeviceNode, parseDevices } from './device-findings.js';
import { type HostFacts, readHostFacts, readHostFiles } from './host-facts.js';
import { type EngineFacts, engineFacts, hostFindings } from './host-findings.js';
import {
  deviceNodes,
  existsOnHost,
  HostTree,
  inodeOf,
  isSocket,
  ownPlaces,
  readProc,
  readUnixSockets,
  shownPath,
} from './host-tree.js';
import { listedMounts, type MountsKnown } from './mount-findings.js';
import { type HostPlace, type Mounted, type OwnPlaces, placesOf } from './sensitive-places.js';

export interface HostWatchOptions {
  readonly config: Config;
  readonly docker: Engine;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly kernel: Pick<Kernel, 'generation' | 'hostRules'>;
  /** The kernel counts no changes of iptables-legacy. */
  readonly hostMode: { readonly isLegacy: boolean };
  readonly log: Logger;
}
const EVERY_MS = 60_000;
/** Changes of rules come in bursts. */
const SOON_MS = 2_000;

/** Facts about the host itself, read every minute and soon after another process changed rules. */
export class HostWatch implements AsyncDisposable {
  readonly #o: HostWatchOptions;
  readonly own: OwnPlaces;
  readonly mounts: MountWatch;
  /** Undefined until the host was read for the first time. */
  host: HostFacts | undefined;
  /** Undefined until Docker has answered for the first time. */
  engine: EngineFacts | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** What the rules of other programs in `host` were read for. */
  #readFor: string | undefined;
  #soon = false;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  #news: Disposable | undefined;

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
  }

  /** Ids of the networks with a managed bridge. */
  get managed(): ReadonlySet<string> {
    return new Set([...(this.#o.applied.value?.vethMap.bridges.values() ?? [])].map((b) => b.network.id));
  }

  /** Read the facts now, and regularly from now on. At first the rules are those that the first pass has read; they are read again soon. */
  async start(): Promise<void> {
    const known = this.#o.kernel.hostRules();
    await this.#readHostFacts(known);
    this.#arm(known ? SOON_MS : EVERY_MS);
  }

  /** Resolve the mounts of containers from now on: with 1,000 of them, that takes a second at first. */
  followMounts(): void {
    this.#news ??= this.#o.docker.onChange(() => void this.mounts.refresh('new'));
    void this.mounts.refresh('all');
  }

  /** Read the facts soon, because another process changed rules. */
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
      this.#running = this.#readHostFacts().then(() => this.#arm(this.#soon ? SOON_MS : EVERY_MS));
    }, ms).unref();
  }

  /** Facts that cannot be read keep their last value. Docker may hang, so its answer is not awaited. */
  async #readHostFacts(known?: ReturnType<Kernel['hostRules']>): Promise<void> {
    const { applied, docker } = this.#o;
    try {
      void this.#askDocker(known ? docker.infoAtConnection() : docker.info()); // the start asks it again soon
      const bridges = new Set(applied.value?.vethMap.bridges.keys());
      const readFor = this.#state(bridges);
      if (this.host && readFor !== undefined && readFor === this.#readFor) {
        const { bridgeNf: _, ...before } = this.host;
        this.host = { ...before, ...readHostFiles() };
        return;
      }
      this.#readFor = undefined;
      this.host = await readHostFacts(exec, this.#o.config.kernel.prefix, bridges, undefined, known);
      this.#readFor = known ? undefined : readFor;
    } catch (e) {
      this.#o.log.warn(
        { err: String(e) },
        'cannot read the firewall rules of other programs on this host: coverage may be outdated',
      );
    }
  }

  /** Differs after each change of a rule, and for other bridges; undefined: a change would not show. */
  #state(bridges: ReadonlySet<string>): string | undefined {
    const generation = this.#o.hostMode.isLegacy ? undefined : this.#o.kernel.generation();
    return generation === undefined ? undefined : [generation, ...bridges].join(' ');
  }

  async #askDocker(asked: Promise<EngineInfo>): Promise<void> {
    const facts = await asked.catch(() => undefined); // the engine logs a failure
    if (!facts) return;
    const before = this.engine?.firewallBackend;
    this.engine = engineFacts(facts);
    if (this.#news) void this.mounts.refresh('all');
    if (this.engine.firewallBackend === before) return;
    for (const f of hostFindings({ host: undefined, engine: this.engine, failure: 'closed' }))
      this.#o.log[f.state === 'enforced' ? 'warn' : 'error']({ remedy: f.remedy }, f.detail);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#news?.[Symbol.dispose]();
    this.mounts.stop();
    await this.#running;
  }
}

interface MountWatchOptions {
  readonly own: OwnPlaces;
  /** Running containers. */
  readonly containers: () => Iterable<ContainerFacts>;
  /** Docker's data root. Undefined until Docker reports it. */
  readonly dataRoot: () => string | undefined;
  readonly log: Logger;
}
interface Host {
  /** When it was read (ms, monotonic), and for which data root. */
  readonly at: number;
  readonly forDataRoot: string | undefined;
  readonly tree: HostTree;
  readonly places: readonly HostPlace[];
  readonly dataRoot: Location | undefined;
  readonly drivers: DeviceFacts['drivers'];
}
interface Read {
  readonly pid: number;
  readonly mounts: MountsKnown;
  /** Differs when the mounts lead elsewhere; undefined: they are looked up again. */
  readonly key: string | undefined;
  /** The mounts of the host by which they were shown. */
  readonly by?: MountTable;
  /** What an inspect has shown, and the mounts in it as part of the key. */
  readonly inspected?: ContainerFacts['privileges'];
  readonly listed?: string;
  readonly devices: readonly DeviceNode[];
}
/** Each includes those before it. */
const WHICH = ['new', 'young', 'all'] as const;
type Which = (typeof WHICH)[number];
const NO_DEVICES: DeviceFacts = { drivers: undefined, nodes: [] };
const SOONEST_MS = 30_000;
/** After its first reading a container is read once more, next to what the host has then. The host is read so often at most. */
const SECOND_MS = { after: 2_000, between: 10_000 };
/** What every container gets from its runtime, unless Docker lists a mount there. */
const DEFAULTS = /^\/($|(proc|sys|dev)(\/|$))/;

/** With SYS_ADMIN a container can make as many as the kernel lets it: it must not keep this process busy. */
const MOST_MOUNTS = 2_000;
/** The mounts of so many containers are read before other tasks have their turn. */
const READ_AT_ONCE = 20;

/**
 * Reads the mounts of each container from /proc/PID/mountinfo, where the kernel has resolved links, volume options and plugins. The
 * sensitive places of the host that they are compared with are looked up again each time.
 *
 * What a mount leads to is looked up again when it can have changed: the text of the container's mountinfo, the mounts that Docker
 * lists, or the path by which the host's mounts lead to it differ, or no file was found there. Otherwise it is the same file: the
 * kernel writes the path of a mount's root from the directory entry that the mount holds. Another file at this path would change
 * the text, since the root of the old mount is written as "…//deleted" then.
 */
class MountWatch {
  readonly #o: MountWatchOptions;
  readonly #read = new Map<string, Read>();
  #host: Host | undefined;
  /** Next to which all containers were read. */
  #all: Host | undefined;
  #failure: string | undefined;
  #running: Promise<void> | undefined;
  #again: Which | undefined;
  /** Containers that were read once, next to what was known of the host by then: a mount, or a socket that they lead to, may be newer. */
  readonly #young = new Set<string>();
  #second: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: MountWatchOptions) {
    this.#o = options;
  }

  /** Of a container that does not run there is nothing to read: what Docker lists is compared as it is written. */
  mountsOf(c: ContainerFacts): MountsKnown | undefined {
    const pid = c.privileges?.pid ?? 0;
    if (pid === 0) return undefined;
    const read = this.#read.get(c.id);
    return read?.pid === pid
      ? read.mounts
      : this.#failure === undefined
        ? 'unread'
        : { failure: this.#failure };
  }

  devicesOf(c: ContainerFacts): DeviceFacts {
    if (!this.#host) return NO_DEVICES;
    return { drivers: this.#host.drivers, nodes: this.#read.get(c.id)?.devices ?? [] };
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#second);
  }

  /** Reads what is new, or what is young in addition, or everything again; one at a time. Never rejects. */
  refresh(which: Which): Promise<void> {
    if (this.#again === undefined || WHICH.indexOf(which) > WHICH.indexOf(this.#again)) this.#again = which;
    this.#running ??= this.#run();
    return this.#running;
  }

  async #run(): Promise<void> {
    while (this.#again) {
      const which = this.#again === 'all' && !this.#isOld() ? 'new' : this.#again;
      this.#again = undefined;
      try {
        if (which !== 'new' || !this.#host) this.#host = await this.#readHost();
        if (which === 'all') this.#all = this.#host;
        this.#failure = undefined;
        await this.#containers(this.#host, which);
      } catch (e) {
        this.#failure = String(e);
        this.#o.log.warn(
          { err: String(e) },
          'cannot read the mounts of this host: coverage compares paths as they are written',
        );
      }
    }
    this.#running = undefined; // here, and not behind the promise: what is asked for in between would be forgotten
  }

  /** Rules of others can change every moment: mounts are not read again each time. */
  #isOld(): boolean {
    return (
      !this.#all ||
      this.#all.forDataRoot !== this.#o.dataRoot() ||
      performance.now() - this.#all.at > SOONEST_MS
    );
  }

  #readSecondTime(): void {
    const ms = Math.max(SECOND_MS.after, (this.#host?.at ?? 0) + SECOND_MS.between - performance.now());
    const read = (): void => {
      this.#second = undefined;
      void this.refresh('young');
    };
    if (!this.#stopped) this.#second ??= setTimeout(read, ms).unref();
  }

  async #containers(host: Host, which: Which): Promise<void> {
    const up = [...this.#o.containers()].filter((c) => (c.privileges?.pid ?? 0) > 0);
    const ids = new Set(up.map((c) => c.id));
    for (const id of this.#read.keys()) if (!ids.has(id)) this.#read.delete(id);
    for (const id of this.#young) if (!ids.has(id)) this.#young.delete(id);
    const tree = host.tree.again();
    for (const [n, c] of up.entries()) {
      const pid = c.privileges?.pid ?? 0;
      const before = this.#read.get(c.id);
      const isFirst = before?.pid !== pid;
      if (!isFirst && (which === 'new' || (which === 'young' && !this.#young.has(c.id)))) continue;
      if (isFirst && which === 'new') this.#young.add(c.id);
      else this.#young.delete(c.id);
      if (n % READ_AT_ONCE === 0) await new Promise((resume) => setImmediate(resume));
      const read = await readMounts(c, { ...host, tree }, before?.pid === pid ? before : undefined);
      this.#read.set(c.id, { pid, ...read, devices: await deviceNodes(c.privileges, tree) });
    }
    if (this.#young.size > 0) this.#readSecondTime();
  }

  async #readHost(): Promise<Host> {
    const tree = await HostTree.read();
    const sockets = await readUnixSockets();
    const dataRoot = this.#o.dataRoot();
    const wanted = placesOf(this.#o.own, { dataRoot: dataRoot ?? '', sockets: sockets.engines });
    const places: HostPlace[] = [];
    for (const place of wanted)
      for (const found of await tree.find(place.path)) {
        const location = tree.mounts.locate(found.path);
        const fits = place.by === 'write' || place.isDeep || isSocket(found, sockets.listening);
        if (location && fits)
          places.push({ ...place, path: shownPath(found, place.by), location, ...inodeOf(found) });
      }
    places.push(...ownPlaces(wanted, this.#o.own, tree));
    const [root] = dataRoot === undefined ? [] : await tree.find(dataRoot);
    return {
      at: performance.now(),
      forDataRoot: dataRoot,
      tree,
      ...orBefore({ places, dataRoot: root && tree.mounts.locate(root.path) }, this.#host),
      drivers: parseDevices(readProc('devices')),
    };
  }
}

type Compared = Pick<Host, 'places' | 'dataRoot'>;
/** The objects of the reading before if they are equal: what was computed from the same objects need not be computed again. */
const orBefore = (now: Compared, before: Compared = now): Compared =>
  isDeepStrictEqual([before.places, before.dataRoot], [now.places, now.dataRoot])
    ? { places: before.places, dataRoot: before.dataRoot }
    : now;

/** Read the mounts of a container. `before`: what was read of the same process. */
async function readMounts(
  c: ContainerFacts,
  { tree, places, dataRoot }: Host,
  before: Read | undefined,
): Promise<Omit<Read, 'pid' | 'devices'>> {
  let text: string;
  try {
    text = readProc(`${c.privileges?.pid}/mountinfo`);
  } catch (e) {
    return failed(codeOrText(e));
  }
  const inspected = c.privileges;
  const isInspectKnown = before?.listed !== undefined && before.inspected === inspected;
  const destinations = (): string[] => listedMounts(inspected).map((t) => t.destination);
  const listed = isInspectKnown ? before.listed : JSON.stringify(destinations());
  const key = `${tree.isReadable} ${listed} ${hash('sha1', text, 'base64')}`;
  const by = tree.mounts;
  const read = { by, inspected, listed };
  const known = before?.key === key && typeof before.mounts === 'object' && 'places' in before.mounts;
  // the path of a location depends on the table only, which does not change
  const isShown = (m: Mounted): boolean => tree.shown(m.location, m.type) === m.path;
  if (known && (before.by === by || before.mounts.mounted.every(isShown))) {
    const isSame = before.mounts.places === places && before.mounts.dataRoot === dataRoot;
    return {
      ...read,
      key,
      mounts: isSame ? before.mounts : { mounted: before.mounts.mounted, places, dataRoot },
    };
  }
  const shown = destinations();
  const given = parseMountInfo(text).filter(
    (m) => !DEFAULTS.test(m.point) || shown.some((d) => isWithin(d, m.point)),
  );
  if (given.length > MOST_MOUNTS) return failed(`it has more than ${MOST_MOUNTS} mounts`);
  const mounted: Mounted[] = [];
  let isSettled = true;
  for (const m of given) {
    const found = await tree.mounted(m);
    mounted.push(found.mounted);
    isSettled &&= found.isSettled;
  }
  return { ...read, key: isSettled ? key : undefined, mounts: { mounted, places, dataRoot } };
}

const failed = (failure: string): Pick<Read, 'mounts' | 'key'> => ({ mounts: { failure }, key: undefined });
