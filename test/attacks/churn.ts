/**
 * What a busy host does, in lanes that a seed fixes: Docker's objects, faults, changes through the API, and readers of it.
 * The pauses between two steps of a lane leave a host with two cores about half of its time: a host that is always late would
 * only show that it is late.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../fuzz/random.js';
import { waitFor } from '../lab/process.js';
import { Changes } from './churn-changes.js';
import { Faults, type Place } from './churn-faults.js';

const MOST_CONTAINERS = 6;
const MOST_NETWORKS = 3;
/** Beyond the time of a run that is too short for one step of each kind. */
const LONGER_MS = 90_000;
const KNOWN_MS = 60_000;
const READERS = 8;
const READ = [
  '/v1/containers',
  '/v1/plan',
  '/v1/status',
  '/v1/flows?limit=50',
  '/v1/audit?limit=20',
  '/readyz',
];
const READ_PAUSE_MS = 500;
const PERMITTED = '93.184.70';
/** First instructions: a permitted request, and forbidden addresses that the attack sends to as well. */
const first = (permitted: string): string => `wget -q -T 1 -O /dev/null http://93.184.200.7/ &
  ping -c 1 -W 1 93.184.200.8 >/dev/null 2>&1 &
  wget -q -T 1 -O /dev/null 'http://[2600:9000:bad::9]/' &
  { wget -q -T 30 -O /dev/null http://${permitted}/ && echo answered; } 2>&1 | sed 's/^/permitted: /'
  sleep 600`;
type Step = readonly [kind: string, weight: number, run: (r: Random) => Promise<boolean>];
interface Lane {
  /** Between two steps. */
  readonly pauseMs: number;
  readonly steps: readonly Step[];
}
interface Made {
  readonly name: string;
  /** Docker does not start a container again when the network of its creation is gone. */
  readonly home: string;
}

/** Resolves when all have ended, with the first rejection; `onFailure` is called at once. */
async function firstFailure(all: readonly Promise<void>[], onFailure: () => void): Promise<unknown> {
  let first: unknown;
  const caught = all.map((p) =>
    p.catch((e: unknown) => {
      first ??= e;
      onFailure();
    }),
  );
  await Promise.all(caught);
  return first;
}

export class Churn {
  readonly faults: Faults;
  readonly changes: Changes;
  /** Answers to readers that are none: neither 2xx, nor 429 or 503 with a reason, nor the absence of a service that was killed. */
  readonly misread: string[] = [];
  reads = 0;
  /** The longest time to an answer, by path (ms). */
  readonly slowest: Record<string, number> = {};
  /**
   * Permitted requests that were the first instruction of a container. Failures other than a refusal are only counted: the
   * container may have been disconnected, and a new one waits while the service is down or Docker is silent, until its own
   * kernel gives up (no answer to ARP for three seconds is "No route to host").
   */
  readonly firsts = { answered: 0, failed: {} as Record<string, number>, refused: [] as string[] };
  readonly #p: Place;
  readonly #random: (lane: number) => Random;
  readonly #containers: Made[] = [];
  readonly #networks: string[] = ['bridge', 'arena'];
  /** By name of the network. */
  readonly #bridges = new Map<string, string>();
  #creating: Promise<unknown> = Promise.resolve();
  readonly #done = new Map<string, number>();
  #made = 0;
  #until = 0;

  constructor(place: Place, random: (lane: number) => Random) {
    this.#p = place;
    this.#random = random;
    this.faults = new Faults(place, { known: () => this.#networksKnown() });
    this.changes = new Changes(place.lab, place.drawbridge);
  }

  #lanes(): readonly Lane[] {
    const { faults, changes } = this;
    return [
      {
        pauseMs: 300,
        steps: [
          ['start', 4, (r) => this.#start(r)],
          ['stop', 2, (r) => this.#stop(r)],
          ['restart', 1, (r) => this.#restart(r)],
          ['connect', 2, (r) => this.#leg('connect', r)],
          ['disconnect', 2, (r) => this.#leg('disconnect', r)],
          ['network', 1, () => this.#network()],
          ['network rm', 1, () => this.#removeNetwork()],
        ],
      },
      {
        pauseMs: 1_000,
        steps: [
          ['flush', 3, (r) => faults.flush(r)],
          ['kill', 1, () => faults.kill()],
          ['freeze', 1, () => faults.freeze()],
        ],
      },
      {
        pauseMs: 3_000,
        steps: [
          ['docker', 2, (r) => faults.docker(r)],
          ['disk', 1, () => faults.fullDisk()],
        ],
      },
      { pauseMs: 500, steps: [['revoke', 1, (r) => changes.revoke(r)]] },
      { pauseMs: 500, steps: [['list', 1, (r) => changes.list(r)]] },
    ];
  }

  /**
   * Runs all lanes for `ms`, and longer until each kind of step was done once. `kills`: the service is killed and frozen
   * now and then. Returns how often each kind was done so far.
   */
  async run(ms: number, { kills }: { readonly kills: boolean }): Promise<ReadonlyMap<string, number>> {
    this.#until = Date.now() + ms;
    this.faults.mayKill = kills;
    const lanes = this.#lanes();
    const kinds = lanes.flatMap(({ steps }) => steps.map(([kind]) => kind));
    let hasFailed = false;
    const isOver = (): boolean => {
      if (hasFailed) return true;
      const late = Date.now() - this.#until;
      return late >= LONGER_MS || (late >= 0 && kinds.every((kind) => this.#done.has(kind)));
    };
    const readers = Array.from({ length: READERS }, (_, n) => this.#reader(n, isOver));
    const failure = await firstFailure([...lanes.map((l, n) => this.#lane(n, l, isOver)), ...readers], () => {
      hasFailed = true;
    });
    if (failure !== undefined) throw failure;
    const missing = kinds.filter((kind) => !this.#done.has(kind));
    if (missing.length > 0) throw new Error(`not done in ${ms + LONGER_MS} ms: ${missing.join(', ')}`);
    return this.#done;
  }

  /** Every step of the bag once, in any order, then again. One that cannot be done now (nothing to stop) is passed over. */
  async #lane(n: number, { steps, pauseMs }: Lane, isOver: () => boolean): Promise<void> {
    const random = this.#random(n);
    const bag = steps.flatMap((s) => Array.from({ length: s[1] }, () => s));
    for (let left: Step[] = []; !isOver(); ) {
      if (left.length === 0) left = [...bag];
      const [step] = left.splice(random.below(left.length), 1);
      const [kind, , run] = step as Step;
      if (await run(random)) this.#done.set(kind, (this.#done.get(kind) ?? 0) + 1);
      await sleep(pauseMs);
    }
  }

  async #start(random: Random): Promise<boolean> {
    if (this.#containers.length >= MOST_CONTAINERS) return false;
    const name = `churn-${++this.#made}`;
    const home = random.pick(this.#networks);
    const permitted = `${PERMITTED}.${1 + random.below(200)}`;
    await this.#p.lab.start({
      name,
      network: home,
      node: false,
      labels: { 'drawbridge.allow': `${permitted}:80` },
      cmd: ['sh', '-c', first(permitted)],
    });
    this.#containers.push({ name, home });
    return true;
  }
  async #stop(random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    const [made] = this.#containers.splice(random.below(this.#containers.length), 1);
    await this.#remove((made as Made).name);
    return true;
  }
  /** Removes the containers that are left. */
  async end(): Promise<void> {
    for (const { name } of this.#containers.splice(0)) await this.#remove(name);
  }
  /** A container that was restarted has made more than one request. */
  async #remove(name: string): Promise<void> {
    const { stdout } = await this.#p.lab.dockerResult(['logs', name]);
    await this.#p.lab.docker('rm', '-f', name);
    const lines = stdout.split('\n').filter((line) => line.startsWith('permitted: '));
    const answered = lines.filter((line) => line.endsWith('answered'));
    this.firsts.answered += answered.length;
    for (const line of lines.filter((l) => !l.endsWith('answered'))) {
      const why = line.split(': ').at(-1) ?? '';
      this.firsts.failed[why] = (this.firsts.failed[why] ?? 0) + 1;
    }
    const refused = lines.filter((line) => line.includes('refused'));
    this.firsts.refused.push(...refused.map((line) => `${Date.now()} ${name}: ${line}`));
  }
  async #restart(random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    await this.#p.lab.docker('restart', '-t', '0', random.pick(this.#containers).name);
    return true;
  }
  /** The first network, from any on, that Docker does not refuse because it is so already. */
  async #leg(verb: 'connect' | 'disconnect', random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    const { name } = random.pick(this.#containers);
    const from = random.below(this.#networks.length);
    for (const network of [...this.#networks.slice(from), ...this.#networks.slice(0, from)]) {
      const args = ['network', verb, network, name];
      if ((await this.#p.lab.dockerResult(args, { check: false })).code === 0) return true;
    }
    return false;
  }
  async #network(): Promise<boolean> {
    if (this.#networks.length >= 2 + MOST_NETWORKS || this.faults.isBridgeTableGone) return false;
    const name = `net-${++this.#made}`;
    const create = this.#p.lab.docker('network', 'create', '--ipv6', name);
    this.#creating = create;
    this.#bridges.set(name, `br-${(await create).slice(0, 12)}`);
    this.#networks.push(name);
    return true;
  }
  /** A network that was created a moment ago included. */
  async #networksKnown(): Promise<void> {
    await this.#creating;
    const isKnown = async (): Promise<boolean> => {
      const { stdout } = await this.#p.lab.inHost(['iptables', '-w', '-t', 'security', '-S']);
      const bridges = this.#networks.flatMap((name) => this.#bridges.get(name) ?? []);
      return bridges.every((bridge) => stdout.includes(`-i ${bridge} `));
    };
    await waitFor('the rules to know every network', isKnown, KNOWN_MS, 100);
  }
  /** The oldest one that no container has, or was created on. */
  async #removeNetwork(): Promise<boolean> {
    const isHome = (network: string): boolean => this.#containers.some(({ home }) => home === network);
    for (const network of this.#networks.slice(2).filter((n) => !isHome(n))) {
      const removed = await this.#p.lab.dockerResult(['network', 'rm', network], { check: false });
      if (removed.code !== 0) continue;
      this.#networks.splice(this.#networks.indexOf(network), 1);
      return true;
    }
    return false;
  }

  /** A colleague's dashboard. */
  async #reader(n: number, isOver: () => boolean): Promise<void> {
    for (let i = n; !isOver(); i++) {
      const path = READ[i % READ.length] as string;
      const began = performance.now();
      const answer = await this.#p.drawbridge
        .get(path)
        .catch((e: Error) => (this.faults.mayKill ? undefined : { status: 0, body: e.message }));
      if (answer !== undefined) {
        this.reads += 1;
        this.slowest[path] = Math.max(this.slowest[path] ?? 0, Math.round(performance.now() - began));
        const isLater = [429, 503].includes(answer.status) && /"(detail|reason)":"/.test(answer.body);
        if (answer.status !== 200 && !isLater)
          this.misread.push(`${Date.now()} ${path}: ${answer.status} ${answer.body.slice(0, 300)}`);
      }
      await sleep(READ_PAUSE_MS);
    }
  }
}
