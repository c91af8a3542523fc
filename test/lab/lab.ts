/** A Docker engine in a network namespace of its own, and an internet made for it in another. See README.md. */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  Container,
  type ProbeResult,
  parseProbe,
  type RunSpec,
  runArguments,
  startContainer,
} from './container.js';
import { Drawbridge, type DrawbridgeSpec, newest } from './drawbridge.js';
import { type DockerOptions, Engine } from './engine.js';
import { makeFar } from './far.js';
import { buildImage, type ImageOptions, nodeMounts } from './images.js';
import { Dns, SnifferClient, Stub, Web } from './internet-client.js';
import { type KernelSnapshot, snapshotKernel } from './kernel-snapshot.js';
import { type EngineVersion, engineOfRun, provideEngine } from './packaged-engine.js';
import { alive, type Result, type RunOptions, run, startDaemon, tail, waitFor } from './process.js';
import { claim, type LabRecord, me, newRecord, save } from './registry.js';
import { call } from './rpc.js';
import { reap, teardown } from './teardown.js';
import { ADDRESSES, makeNamespaces } from './topology.js';
import { makeView, startAnchor, type View } from './view.js';

export interface LabOptions {
  /** 1-41 of a-z, 0-9, "-"; default: made up. */
  readonly name?: string;
  /** direct (default): resolv.conf names the authority. loopback: it names a stub on 127.0.0.153 in HOST. */
  readonly dns?: 'loopback' | 'direct';
  /** Further keys of daemon.json. */
  readonly daemon?: Readonly<Record<string, unknown>>;
  /** Which iptables dockerd and Drawbridge find in PATH; default nft. */
  readonly iptables?: 'nft' | 'legacy';
  /** Which Docker Engine; default: the environment variable LAB_ENGINE, else 26, the installed one. */
  readonly engine?: EngineVersion;
  /** Default true. false: no tcpdump, which would cost a measurement its share of the CPU; `lab.sniffer` then throws. */
  readonly sniffer?: boolean;
  /** Its folder is on a disk: a measurement waits for that as on any host. Default: in memory, where there is enough of it. */
  readonly onDisk?: boolean;
  /** Leave it standing when this process ends (until `scripts/lab down`). */
  readonly keep?: boolean;
}
const BUSYBOX = 'busybox:lab';
const TSX = import.meta.resolve('tsx');
/** Where tsconfig.json has the lab's own processes compiled to. */
const BUILT = join(import.meta.dirname, '..', '..', 'node_modules', '.cache', 'lab');

/** What is compiled when it is newer than everything here, else the script through tsx: that takes longer to begin. */
function helper(script: string): string[] {
  const built = join(BUILT, script.replace(/ts$/, 'js'));
  const current = existsSync(built) && statSync(built).mtimeMs > newest(import.meta.dirname);
  return current ? [built] : ['--import', TSX, join(import.meta.dirname, script)];
}

/** Starts one of the lab's own processes and waits until it answers on its socket. */
async function startHelper(
  record: LabRecord,
  netns: string,
  script: string,
  socket: string,
  ...args: string[]
): Promise<void> {
  const program = [process.execPath, ...helper(script), record.dir, ...args];
  const log = join(record.dir, `${script}.log`);
  const pid = startDaemon(['nsenter', `--net=/run/netns/${netns}`, '--', ...program], log);
  const path = join(record.dir, socket);
  const answers = (): Promise<boolean> => {
    if (!alive(pid)) throw new Error(`${script} ended at its start:\n${tail(log)}`);
    return call(path, 'none').then(
      () => true,
      (e: Error) => e.message.includes('no method'),
    );
  };
  await waitFor(`${script} to answer`, answers, 30_000);
}

export class Lab implements AsyncDisposable {
  readonly record: LabRecord;
  readonly addresses = ADDRESSES;
  readonly images = { busybox: BUSYBOX };
  readonly dns: Dns;
  readonly stub: Stub;
  readonly web: Web;
  readonly sniffer: SnifferClient;
  readonly engine: Engine;
  readonly view: View;
  readonly #drawbridges: Drawbridge[] = [];
  #gone: Promise<void> | undefined;

  private constructor(record: LabRecord, view: View, daemon: Readonly<Record<string, unknown>>) {
    this.record = record;
    this.view = view;
    this.engine = new Engine({ dir: record.dir, view, cgroup: record.cgroup, daemon });
    this.dns = new Dns(record.dir);
    this.stub = new Stub(record.dir);
    this.web = new Web(record.dir);
    this.sniffer = new SnifferClient(record.dir);
  }

  static async up(options: LabOptions = {}): Promise<Lab> {
    await reap();
    const name = options.name ?? `t${process.pid}-${randomBytes(3).toString('hex')}`;
    const how = {
      dns: options.dns ?? 'direct',
      iptables: options.iptables ?? 'nft',
      engine: options.engine ?? engineOfRun(),
      owner: options.keep ? null : me(),
      onDisk: options.onDisk === true,
    };
    const record = newRecord(name, how);
    await provideEngine(record.engine);
    claim(record);
    try {
      return await Lab.#build(record, options);
    } catch (e) {
      await teardown(record);
      throw e;
    }
  }

  static async #build(bare: LabRecord, options: LabOptions): Promise<Lab> {
    mkdirSync(bare.dir);
    await makeNamespaces(bare.hostNetns, bare.netNetns);
    const internet = startHelper(
      bare,
      bare.netNetns,
      'internet.ts',
      'internet.sock',
      options.sniffer === false ? 'no-sniffer' : 'sniffer',
    );
    const hostSide = startHelper(bare, bare.hostNetns, 'host-side.ts', 'host.sock');
    const record = { ...bare, anchor: await startAnchor(bare) };
    save(record);
    const lab = new Lab(record, await makeView(record, record.anchor), options.daemon ?? {});
    const engine = lab.engine.start().then(() => lab.image(BUSYBOX, {}));
    const all = await Promise.allSettled([internet, hostSide, engine]);
    const failed = all.find((r) => r.status === 'rejected');
    if (failed) throw failed.reason;
    return lab;
  }

  get name(): string {
    return this.record.name;
  }
  get dir(): string {
    return this.record.dir;
  }
  /** File of HOST's network namespace, for nsenter or setns. */
  get hostNetns(): string {
    return `/run/netns/${this.record.hostNetns}`;
  }
  get netNetns(): string {
    return `/run/netns/${this.record.netNetns}`;
  }
  get socketPath(): string {
    return this.engine.socketPath;
  }
  get dataRoot(): string {
    return this.engine.dataRoot;
  }
  get execRoot(): string {
    return this.engine.execRoot;
  }
  /** The file that is /etc/resolv.conf in the lab's mount view. */
  get resolvConf(): string {
    return this.view.resolvConf;
  }
  /** Below each controller's root in /sys/fs/cgroup: the parent of all containers of this lab. */
  get cgroupParent(): string {
    return this.record.cgroup;
  }
  /** PEM of the CA that signs what NET's TLS servers show. */
  get caFile(): string {
    return join(this.dir, 'certificates', 'ca.pem');
  }

  /** The docker client on the lab's engine; throws when it fails; gives stdout without the last newline. */
  async docker(...args: readonly string[]): Promise<string> {
    return (await this.engine.docker(args)).stdout.trimEnd();
  }
  /** The same with options; throws unless `check: false`. */
  dockerResult(args: readonly string[], options: DockerOptions = {}): Promise<Result> {
    return this.engine.docker(args, options);
  }
  /** Makes an image: busybox, `files`, `labels`, `cmd`. Gives its name. */
  image(name: string, options: ImageOptions = {}): Promise<string> {
    return buildImage((args, input) => this.engine.docker(args, { input }), name, options);
  }
  nodeMounts(): Promise<readonly string[]> {
    return nodeMounts();
  }
  /** `docker run -d`. */
  async start(spec: RunSpec = {}): Promise<Container> {
    const id = await startContainer(this.engine, spec, BUSYBOX);
    return new Container(this.engine, id, spec.name ?? id.slice(0, 12));
  }
  /** `docker run --rm` to its end; does not throw on a failing command. */
  async run(spec: RunSpec, options: RunOptions = {}): Promise<Result> {
    const args = ['run', '--rm', ...(await runArguments(spec, BUSYBOX))];
    return this.engine.docker(args, { check: false, ...options });
  }
  /** The probe as the one command of a fresh container: its first instruction. */
  async runProbe(spec: RunSpec, ...args: readonly (string | number)[]): Promise<ProbeResult> {
    return parseProbe(await this.run({ ...spec, cmd: ['node', '/probe.cjs', ...args.map(String)] }));
  }
  exec(container: string, argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return this.engine.exec(container, argv, options);
  }
  /** Runs a command in HOST's network namespace and the lab's mount view; does not throw on failure. */
  inHost(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return run(this.view.inside(argv), { env: this.view.env, ...options });
  }
  /** Runs a command in NET, "the internet". */
  inNet(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return run(['nsenter', `--net=${this.netNetns}`, '--', ...argv], options);
  }
  /**
   * Ends the TCP connections of NET's servers. A server would repeat its last segment when the container of its client is gone, and the
   * host's own stack would answer with a reset, which looks like a packet of the container that has the address next.
   */
  async endConnections(): Promise<void> {
    await this.inNet(['ss', '-HtnK', 'state', 'connected'], { check: true });
  }
  /** Makes FAR, the end of a narrow path beyond NET: see far.ts. */
  far(): Promise<void> {
    return makeFar(this.record);
  }
  /** The probe from NET, for published ports and the like. */
  async probeFromNet(...args: readonly (string | number)[]): Promise<ProbeResult> {
    const probe = join(import.meta.dirname, 'probe.cjs');
    return parseProbe(await this.inNet([process.execPath, probe, ...args.map(String)]));
  }
  /** Stops dockerd (SIGKILL: a crash) and starts it; containers end with it unless live-restore is set. */
  async restartDocker(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.engine.stop(signal);
    await this.engine.start();
  }
  /** Packet filter state of HOST, all tables of both families, without counters and time-outs. */
  snapshotKernel(): Promise<KernelSnapshot> {
    return snapshotKernel((argv) => this.inHost(argv, { check: true }));
  }
  /** Starts Drawbridge; await its `ready()`. */
  drawbridge(spec: DrawbridgeSpec = {}): Drawbridge {
    const place = { dir: this.dir, view: this.view, dockerSocket: this.socketPath };
    const d = new Drawbridge(place, spec);
    d.start();
    this.#drawbridges.push(d);
    return d;
  }

  /** Removes everything; a second call waits for the first. */
  down(): Promise<void> {
    this.#gone ??= this.#remove();
    return this.#gone;
  }
  async #remove(): Promise<void> {
    await Promise.all(this.#drawbridges.map((d) => d.stop()));
    // its containers have gone, and nothing of its state is kept: an orderly end would take a second or more
    await teardown(this.record, () => this.engine.stop('SIGKILL'));
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }
}
