/** A running container of the lab, and the arguments that start one. */
import { askDocker, streamsOf } from './docker-exec.js';
import type { Engine } from './engine.js';
import { nodeMounts } from './images.js';
import { Prober } from './prober.js';
import type { Result, RunOptions } from './process.js';

export interface RunSpec {
  /** Default: the lab's busybox. */
  readonly image?: string;
  readonly name?: string;
  /** Network or network mode: "host", "container:NAME", a network's name. Default: the default bridge. */
  readonly network?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Mount the host's node and the probe (default true). */
  readonly node?: boolean;
  /** Further `-v` values. */
  readonly mounts?: readonly string[];
  /** Further arguments of `docker run`, before the image. */
  readonly args?: readonly string[];
  /** The command; default: the image's (busybox: sleep). */
  readonly cmd?: readonly string[];
}

/** What the probe prints; `code` is an errno name such as ECONNREFUSED, TIMEOUT, EOF or null. */
export interface ProbeResult {
  readonly ok: boolean;
  readonly code: string | null;
  readonly ms: number;
  readonly message?: string;
  readonly data?: string;
  readonly local?: string;
  readonly localPort?: number;
  readonly remote?: string;
  readonly status?: number;
  readonly body?: unknown;
  readonly sent?: number;
  readonly echoes?: number;
  readonly rcode?: string;
  readonly aa?: boolean;
  readonly tc?: boolean;
  readonly addresses?: readonly string[];
  readonly answers?: readonly { readonly type: string; readonly ttl: number; readonly data: string }[];
}

const pairs = (flag: string, o: Readonly<Record<string, string>> = {}): string[] =>
  Object.entries(o).flatMap(([k, v]) => [flag, `${k}=${v}`]);

/** Start a container through the API, as `docker run -d` does: the client of Docker alone takes 25 ms of processor time. Returns the id. */
export async function startContainer(engine: Engine, spec: RunSpec, image: string): Promise<string> {
  if ((spec.args?.length ?? 0) > 0)
    return (await engine.docker(['run', '-d', ...(await runArguments(spec, image))])).stdout.trimEnd();
  const mounts = new Set([...(spec.node === false ? [] : await nodeMounts()), ...(spec.mounts ?? [])]);
  mounts.delete('-v');
  const body = {
    Image: spec.image ?? image,
    Labels: spec.labels ?? {},
    Env: Object.entries(spec.env ?? {}).map(([k, v]) => `${k}=${v}`),
    StopTimeout: 1,
    HostConfig: { NetworkMode: spec.network ?? 'default', Binds: [...mounts] },
    ...(spec.cmd === undefined ? {} : { Cmd: spec.cmd }),
  };
  const name = spec.name === undefined ? '' : `?name=${encodeURIComponent(spec.name)}`;
  const created = await askDocker(engine.socketPath, 'POST', `/containers/create${name}`, { body });
  const { Id: id } = JSON.parse(created.toString()) as { Id: string };
  await askDocker(engine.socketPath, 'POST', `/containers/${id}/start`);
  return id;
}

/** The arguments of `docker run` or `docker create` for a spec. */
export async function runArguments(spec: RunSpec, image: string): Promise<string[]> {
  return [
    ...(spec.name === undefined ? [] : ['--name', spec.name]),
    ...(spec.network === undefined ? [] : ['--network', spec.network]),
    ...pairs('--label', spec.labels),
    ...pairs('-e', spec.env),
    '--stop-timeout=1',
    ...(spec.node === false ? [] : await nodeMounts()),
    ...(spec.mounts ?? []).flatMap((m) => ['-v', m]),
    ...(spec.args ?? []),
    spec.image ?? image,
    ...(spec.cmd ?? []),
  ];
}

export function parseProbe(result: Result): ProbeResult {
  const line = result.stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{'))
    throw new Error(`probe printed no result: exit ${result.code}: ${result.stdout}${result.stderr}`);
  return JSON.parse(line) as ProbeResult;
}

interface Inspected {
  readonly State: { readonly Pid: number };
  readonly NetworkSettings: {
    readonly Networks: Readonly<
      Record<string, { IPAddress: string; GlobalIPv6Address: string; MacAddress: string; Gateway: string }>
    >;
  };
}

export class Container {
  readonly id: string;
  readonly name: string;
  readonly #engine: Engine;
  readonly #prober: Prober;

  constructor(engine: Engine, id: string, name: string) {
    this.#engine = engine;
    this.#prober = new Prober(engine.socketPath, id);
    this.id = id;
    this.name = name;
  }

  /** `docker exec`; does not throw on a failing command. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return this.#engine.exec(this.id, argv, options);
  }
  /** One attempt by the probe inside the container, for example `probe('tcp', '93.184.1.1', 443)`. */
  probe(...args: readonly (string | number)[]): Promise<ProbeResult> {
    return this.#prober.attempt(args);
  }
  /** As of `docker inspect`. */
  async inspect<T = Inspected>(): Promise<T> {
    return JSON.parse((await this.#ask('GET', '/json')).toString()) as T;
  }
  #ask(method: 'GET' | 'DELETE', what: string): Promise<Buffer> {
    return askDocker(this.#engine.socketPath, method, `/containers/${this.id}${what}`);
  }
  /** Of the named network, else of the first: empty strings where it has no such address. */
  async addresses(network?: string): Promise<{ ip4: string; ip6: string; mac: string; gateway: string }> {
    const networks = (await this.inspect()).NetworkSettings.Networks;
    const n = network === undefined ? Object.values(networks)[0] : networks[network];
    if (n === undefined) throw new Error(`container ${this.name} is not on network ${network ?? '(any)'}`);
    return { ip4: n.IPAddress, ip6: n.GlobalIPv6Address, mac: n.MacAddress, gateway: n.Gateway };
  }
  async pid(): Promise<number> {
    return (await this.inspect()).State.Pid;
  }
  /** stdout and stderr so far. */
  async logs(): Promise<string> {
    const { stdout, stderr } = streamsOf(await this.#ask('GET', '/logs?stdout=1&stderr=1'));
    return stdout + stderr;
  }
  async remove(): Promise<void> {
    await this.#ask('DELETE', '?force=1').catch((e: Error) => {
      if (!e.message.includes('No such container')) throw e; // as `docker rm --force`
    });
  }
}
