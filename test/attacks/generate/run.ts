/** The generator: rounds of shots in a place and at a moment, what has arrived of them, and the smallest form of what should not have. */
import { Random } from '../../fuzz/random.js';
import { waitFor } from '../../lab/process.js';
import {
  claimed,
  frameOps,
  type Op,
  PLACES,
  queryOp,
  type Scene,
  SITE,
  serverOf,
  socketOps,
  tagOf,
  talkOps,
} from './build.js';
import {
  type Arrival,
  type Hit,
  judge,
  type Known,
  limitOf,
  numberIn,
  permittedNumber,
  type Sender,
} from './judge.js';
import { knownOf } from './named.js';
import { describe, type Kind, randomShot, type Shot, simpler, value, type Wish } from './shots.js';
import { HOSTS, type Place, type World } from './world.js';

const BATCH = 500;
const TALKS = 80;
const PLAIN_EVERY = 20;

/** What is sent again to find the smallest form of a hit. */
interface Round {
  readonly place: Place | 'fresh' | 'joins';
  readonly kind: Kind;
  readonly moment: Moment;
}
export interface Found {
  readonly at: string;
  readonly why: string;
  readonly place: string;
  readonly moment: Moment;
  readonly shot: Shot;
  readonly bytes: string;
  /** Seconds after the start of the run. */
  readonly seconds: number;
  readonly round: number;
  /** Whether it arrived again when it was sent by itself. */
  readonly isRepeated: boolean;
}
export interface Report {
  readonly found: readonly Found[];
  /** What the documentation says is not stopped, and how often it was seen. */
  readonly limits: Readonly<Record<string, number>>;
  /** All of them, by receiver. */
  readonly hits: Readonly<Record<string, number>>;
  readonly rounds: number;
  readonly sent: number;
  /** Permitted ones that arrived, by place. */
  readonly permitted: Readonly<Record<string, number>>;
}
export const MOMENTS = [
  'steady',
  'first instruction',
  'new network',
  'join',
  'restart',
  'frozen service',
  'flush',
  'reload',
  'lockdown',
  'service restart',
] as const;
export type Moment = (typeof MOMENTS)[number];

const WISHES: Readonly<Record<string, Wish>> = {
  talk: { prefer: { says: ['permitted', 'denied', 'denied', 'late-name'], cut: ['none', 'none', 'tcp'] } },
  // Frames of an AF_XDP socket pass every hook of its namespace; on macvlan nothing else is there (docs/threat-model.md).
  macvlan: { without: { way: ['xdp'] } },
  observed: {
    // The host answers an observed container, whatever address it gives: that goes where its source leads.
    without: { from: ['nothing', 'link-local', 'mapped', 'internet', 'permitted', 'loopback'] },
    prefer: {
      to: ['redis', 'redis', 'resolver', 'host'],
      protocol: ['tcp', 'tcp', 'probe', 'udp', 'arp-reply'],
    },
  },
  'new network': {
    prefer: { family: ['v6'], protocol: ['probe', 'probe', 'udp', 'arp-probe', 'advertisement', 'router'] },
  },
};
/** As one kind of hit: without what each has of its own. */
const isPlain = ({ values }: Shot): boolean => Object.keys(values).every((k) => k === 'family');
const classOf = (at: string, why: string): string =>
  `${at} ${why.replace(/[0-9a-f]*(:+[0-9a-f]+){2,}|\d+\.\d+\.\d+\.\d+|port \d+|g7[0-9a-f]{8}e/g, '_')}`;
const explains = (small: Shot, large: Shot): boolean =>
  small.kind === large.kind && Object.entries(small.values).every(([k, v]) => large.values[k] === v);

export interface Options {
  readonly seed: number;
  readonly seconds: number;
  /** At least so many, however long they take: 30 have each moment. */
  readonly rounds?: number;
  /** Only these. */
  readonly only?: readonly number[];
  /** Hits, too, that docs/threat-model.md says are not stopped. */
  readonly strict?: boolean;
  /** false: no hit is sent again, so that a control is short. */
  readonly explains?: boolean;
  readonly moments?: readonly Moment[];
  readonly places?: readonly string[];
  readonly stopAtFirst?: boolean;
  /** Every hit, as it is found. */
  readonly verbose?: boolean;
  readonly tell?: (line: string) => void;
}

export class Generator {
  readonly #world: World;
  readonly #options: Options;
  readonly #senders = new Map<number, Sender & { readonly shot: Shot }>();
  readonly #found: Found[] = [];
  readonly #permitted: Record<string, number> = {};
  readonly #known: Known;
  readonly #hits: Record<string, number> = {};
  readonly #limits: Record<string, number> = {};
  #number = 0;
  #sent = 0;
  #began = performance.now();
  #fresh = 0;

  constructor(world: World, options: Options) {
    this.#world = world;
    this.#options = options;
    this.#known = knownOf(world, (n) => this.#senders.get(n));
  }

  async run(): Promise<Report> {
    this.#began = performance.now();
    const { seconds, rounds = 0, only, stopAtFirst } = this.#options;
    await this.#settle(); // what came before the run is not its own
    let n = 0;
    const isDone = (): boolean =>
      (only ? n >= only.length : n >= rounds && this.#seconds() >= seconds) ||
      (stopAtFirst === true && this.#found.length > 0);
    while (!isDone()) {
      await this.#round(only?.[n] ?? n);
      n += 1;
    }
    return this.#report(n);
  }
  #report(rounds: number): Report {
    return {
      found: this.#found,
      hits: this.#hits,
      limits: this.#limits,
      rounds,
      sent: this.#sent,
      permitted: this.#permitted,
    };
  }
  #seconds = (): number => (performance.now() - this.#began) / 1000;

  /** The plan of a round follows from its number and the seed alone. */
  #plan(round: number): Round {
    const { moments = MOMENTS, places } = this.#options;
    const isMoment = round % 3 === 2 && moments.some((m) => m !== 'steady');
    if (isMoment) {
      const others = moments.filter((m) => m !== 'steady');
      const moment = others[Math.floor(round / 3) % others.length] ?? 'steady';
      const place =
        moment === 'first instruction' || moment === 'new network'
          ? 'fresh'
          : moment === 'join'
            ? 'joins'
            : 'bridge';
      return { place, moment, kind: 'frame' };
    }
    const steady: readonly (readonly [Place, Kind])[] = [
      ['bridge', 'frame'],
      ['bridge', 'talk'],
      ['host', 'socket'],
      ['observed', 'frame'],
      ['second', 'frame'],
      ['macvlan', 'socket'],
      ['joined', 'frame'],
      ['macvlan', 'frame'],
      ['bridge', 'socket'],
    ];
    const usable = steady.filter(([place]) => places === undefined || places.includes(place));
    const [place, kind] = usable[(Math.floor(round / 3) * 2 + (round % 3)) % usable.length] ?? [
      'bridge',
      'frame',
    ];
    return { place, kind, moment: 'steady' };
  }

  async #round(n: number): Promise<void> {
    const plan = this.#plan(n);
    const random = new Random(this.#options.seed * 100_003 + n);
    const count = plan.kind === 'talk' ? TALKS : plan.place === 'fresh' ? 120 : BATCH;
    const wish = WISHES[plan.moment] ?? WISHES[plan.kind] ?? WISHES[plan.place] ?? {};
    const shots = Array.from({ length: count }, (_, i) =>
      i % PLAIN_EVERY === 0
        ? { kind: plan.kind, values: { family: i % 40 === 0 ? 'v4' : 'v6' } }
        : randomShot(random, plan.kind, wish),
    );
    await this.#try(n, plan, shots);
  }
  /** One shot, many times, and some plain ones. */
  async try(place: Place, moment: Moment, shot: Shot, times: number): Promise<Report> {
    this.#began = performance.now();
    await this.#settle();
    const shots = Array.from({ length: times }, () => shot);
    await this.#try(0, { place, moment, kind: shot.kind }, shots);
    return this.#report(1);
  }
  async #try(n: number, plan: Round, shots: readonly Shot[]): Promise<void> {
    const before = this.#seconds();
    const hits = await this.#fire(plan, shots);
    this.#options.tell?.(
      `round ${n}: ${plan.moment}, ${plan.place}, ${shots.length} of ${plan.kind}, ${(this.#seconds() - before).toFixed(1)} s, ${hits.length} hits`,
    );
    const classes = new Map(hits.map((h) => [classOf(h.at, h.why), h]));
    for (const hit of this.#options.verbose ? hits : [])
      this.#options.tell?.(`  ${hit.at}: ${hit.why}: ${this.#told(hit)}`);
    for (const { at } of hits) this.#hits[at] = (this.#hits[at] ?? 0) + 1;
    let left = this.#options.explains === false ? 0 : EXPLAINED;
    for (const hit of classes.values()) if (left > 0 && (await this.#explain(n, plan, shots, hit))) left -= 1;
  }

  /** Sends them at the moment of the round, and evaluates all that has arrived. */
  async #fire(plan: Round, shots: readonly Shot[]): Promise<Hit[]> {
    const isLocked = plan.moment === 'lockdown';
    const isNew = ['first instruction', 'new network', 'join', 'restart'].includes(plan.moment);
    this.#areNew = [this.#areNew[1] ?? false, isNew];
    const shown = plan.place === 'fresh' || plan.place === 'joins' ? 'bridge' : plan.place;
    const numbers = shots.map((shot) => {
      const n = ++this.#number;
      this.#senders.set(n, { place: shown, isLocked, isNew, shot });
      return n;
    });
    this.#sent += shots.length;
    const ops = (scene: Scene): Op[] =>
      shots.flatMap((s, i) => {
        const n = numbers[i] ?? 0;
        return s.kind === 'socket' ? socketOps(s, scene, n) : frameOps(s, scene, n);
      });
    const asked = plan.kind === 'talk' ? await this.#talk(plan, shots, numbers) : undefined;
    if (!asked) await this.#at(plan, ops);
    return this.#settle(asked);
  }
  /** What continues connections to permitted servers. Returns the plain requests, each with its number: they are to arrive. */
  async #talk(
    plan: Round,
    shots: readonly Shot[],
    numbers: readonly number[],
  ): Promise<ReadonlyMap<number, readonly Op[]>> {
    const scene = this.#scene(plan.place);
    const { talks } = await this.#world.ask(plan.place, {
      talk: { dev: scene.device, to: shots.map(serverOf) },
    });
    const plain = new Map<number, readonly Op[]>();
    const ops = shots.flatMap((s, i) => {
      const opened = talks[i];
      const n = numbers[i] ?? 0;
      const made = opened ? talkOps(s, scene, n, opened) : [];
      if (opened && isPlain(s) && value(s, 'server') === 'http') plain.set(n, made);
      return made;
    });
    if (ops.length === 0) throw new Error('no connection to a permitted server came about');
    await this.#world.ask(plan.place, { ops });
    return plain;
  }
  #scene(name: string): Scene {
    const scene = this.#world.scenes.get(name);
    if (!scene) throw new Error(`no scene for ${name}`);
    return scene;
  }

  async #at({ place, moment }: Round, make: (scene: Scene) => Op[]): Promise<void> {
    const world = this.#world;
    const d = world.drawbridge;
    const send = (name: string = place): Promise<unknown> =>
      world.ask(name === 'second' ? 'second-0' : name, { ops: make(this.#scene(name)) });
    if (
      moment === 'steady' ||
      (d === undefined && !['first instruction', 'new network', 'restart'].includes(moment))
    ) {
      await send(place === 'fresh' || place === 'joins' ? 'bridge' : place);
    } else if (moment === 'first instruction') {
      await world.containers.get('fresh')?.remove();
      await world.sender('fresh', { first: { ops: make(this.#scene('fresh')) } });
      await world.ask('fresh', { began: true });
    } else if (moment === 'new network') {
      await this.#newNetwork(make);
    } else if (moment === 'restart') {
      world.first('bridge', { ops: make(this.#scene('bridge')) });
      await world.lab.docker('restart', '-t', '0', world.containers.get('bridge')?.id ?? '');
      await world.ask('bridge', { began: true });
      world.first('bridge', undefined);
      await world.lab.docker('restart', '-t', '0', world.containers.get('bridge')?.id ?? '');
      await world.resolve(d ? ['bridge'] : []);
    } else if (moment === 'join') {
      // Docker gives a device of a container no name twice.
      await world.containers.get('joins-0')?.remove();
      await world.sender('joins-0');
      await world.ask('joins-0', { ops: [] });
      if (d) await world.untilKnown('joins-0');
      const sending = world.ask('joins-0', { appears: 'eth1', ops: make(this.#scene('joins')) });
      const container = world.containers.get('joins-0');
      if (!container) throw new Error('nothing joins');
      await world.join('beta', container, HOSTS.joins);
      await sending;
    } else if (moment === 'frozen service') {
      d?.kill('SIGSTOP');
      try {
        await send();
      } finally {
        d?.kill('SIGCONT');
      }
    } else if (moment === 'flush') {
      await Promise.all([send(), world.lab.inHost(['conntrack', '-F'])]);
      await world.lab.inHost(['conntrack', '-F']);
      await send();
    } else if (moment === 'reload') {
      d?.writeList(
        'other.yaml',
        `allow: [203.0.113.${1 + (this.#number % 200)}]\nmatch: { name: nobody-${this.#number} }\n`,
      );
      await send();
    } else if (moment === 'lockdown') {
      await this.#stores();
      await this.#called(['lockdown']);
      await send();
      await this.#settled();
      await this.#unlock();
    } else if (moment === 'service restart') {
      await d?.stop();
      d?.start();
      await send();
      await d?.ready(60_000);
    }
  }
  readonly #late: Arrival[] = [];
  /** What a moment let arrive is read within it. */
  async #settled(): Promise<void> {
    this.#late.push(...(await this.#world.watch.sync()));
  }
  /** The store takes changes: a flush of conntrack ends the connection to Redis. */
  async #stores(): Promise<void> {
    await waitFor(
      'the store to take a change',
      async () => {
        const allow = [`203.0.113.${1 + (this.#number % 200)}`];
        const answer = await this.#world.drawbridge?.request('PUT', '/v1/lists/written', { allow });
        return answer !== undefined && answer.status < 300;
      },
      60_000,
    );
  }
  async #unlock(): Promise<void> {
    await waitFor('the end of the lockdown', async () => {
      await this.#called(['lockdown', '--off']);
      const status = await this.#world.drawbridge?.get('/v1/status');
      return status?.status === 200 && (JSON.parse(status.body) as { lockdown: unknown }).lockdown === null;
    });
  }
  async #called(args: readonly string[]): Promise<void> {
    const r = await this.#world.drawbridge?.cli(args);
    if (r && r.code !== 0) throw new Error(`drawbridge ${args.join(' ')}: ${r.stdout}${r.stderr}`);
  }
  /** The first container of a network, while the host still probes for the addresses of the bridge. */
  async #newNetwork(make: (scene: Scene) => Op[]): Promise<void> {
    const world = this.#world;
    const net = 5 + (this.#fresh++ % 4);
    const name = `new-${net}`;
    await world.network(name, net);
    try {
      const gateway = await world.gateway(name, net);
      const own = { ip4: `172.30.${net}.20`, ip6: `fd00:db:a${net}::14`, mac: `02:42:ac:1e:0${net}:14` };
      const scene = { ...this.#scene('bridge'), gateway, own };
      await world.sender(name, { network: name, at: own, first: { ops: make(scene), times: 4, every: 0.4 } });
      await world.ask(name, { began: true });
      await waitFor('the address of the bridge to be in use, or out of it', async () => {
        const { stdout } = await world.lab.inHost([
          'ip',
          '-6',
          'address',
          'show',
          'dev',
          `br-${name}`,
          'tentative',
          '-dadfailed',
        ]);
        return !/fd00/.test(stdout);
      });
      this.#lateState.push(...(await this.#state()));
    } finally {
      await world.containers.get(name)?.remove();
      world.containers.delete(name);
      await world.lab.docker('network', 'rm', name);
    }
  }
  readonly #lateState: Hit[] = [];

  /** For each of the last two rounds: whether the service may not know the sender's veth yet. Entries of the host's tables contain no number of a shot. */
  #areNew: readonly boolean[] = [];
  /** What has arrived since the last call, of these and of earlier ones that were on their way. */
  async #settle(asked?: ReadonlyMap<number, readonly Op[]>): Promise<Hit[]> {
    const { lab, watch } = this.#world;
    if (asked) await this.#requested(asked);
    await this.#resolved();
    const arrivals = [...this.#late.splice(0), ...(await watch.sync())];
    const hits = arrivals.flatMap((a) => judge(a, this.#known) ?? []);
    for (const a of arrivals) {
      const sender = this.#senders.get(permittedNumber(a) ?? 0);
      if (sender && !sender.isLocked)
        this.#permitted[sender.place] = (this.#permitted[sender.place] ?? 0) + 1;
    }
    for (const { name } of await lab.dns.queries(SITE.friends))
      hits.push(told('resolver', 'a name that only another container may resolve', name));
    await lab.dns.clearLog();
    for (const r of await lab.web.requests())
      if (r.host !== SITE.permitted && SHARED.has(r.to))
        hits.push(told('server', `a request for ${r.host}`, `${r.path} ${r.host}`));
    await lab.web.clear();
    hits.push(...this.#lateState.splice(0), ...(await this.#state()));
    const met = new Set<string>();
    return hits.filter((hit) => {
      const { at, why, number } = hit;
      const limit = this.#options.strict
        ? undefined
        : limitOf(hit, this.#senders.get(number ?? 0)?.isNew ?? this.#areNew.includes(true));
      if (limit !== undefined) this.#limits[limit] = (this.#limits[limit] ?? 0) + 1;
      if (limit !== undefined) return false;
      const key = `${classOf(at, why)} ${number}`;
      return met.size < met.add(key).size;
    });
  }
  /** The resolver has sent what it was asked for before: a permitted name, which no query had yet, is at the authority. */
  async #resolved(): Promise<void> {
    const { lab } = this.#world;
    const name = `n${++this.#asked}.${SITE.fresh}`;
    await waitFor(
      'a permitted name to be resolved',
      async () => {
        await this.#world.ask('bridge', { ops: [queryOp(name)] });
        return (await lab.dns.queries(name)).length > 0;
      },
      60_000,
      5,
    );
  }
  #asked = 0;
  /** The server has each of the plain requests. They are sent again meanwhile, as TCP does with what is not acknowledged. */
  async #requested(plain: ReadonlyMap<number, readonly Op[]>): Promise<void> {
    const { lab } = this.#world;
    let missing: readonly number[] = [];
    await waitFor(
      'the server to have the permitted requests',
      async () => {
        const paths = new Set((await lab.web.requests()).map((r) => r.path));
        missing = [...plain.keys()].filter((n) => !paths.has(`/${tagOf(n)}`));
        if (missing.length > 0)
          await this.#world.ask('bridge', { ops: missing.flatMap((n) => plain.get(n) ?? []) });
        return missing.length === 0;
      },
      20_000,
      200,
    ).catch((e: Error) => {
      throw new Error(`${e.message}: ${missing.length} of ${plain.size} are missing`);
    });
  }

  /** What the host believes: its neighbours, its routes, its own addresses. */
  async #state(): Promise<Hit[]> {
    const { lab } = this.#world;
    const ask = async (...argv: string[]): Promise<Row[]> => {
      const { stdout } = await lab.inHost(['ip', '-j', ...argv]);
      return stdout.trim() === '' ? [] : (JSON.parse(stdout) as Row[]);
    };
    const hits: Hit[] = [];
    const hit = (why: string, number?: number): void =>
      void hits.push({ at: 'host', why, number, bytes: Buffer.alloc(0) });
    for (const { dst = '', lladdr, dev = '' } of await ask('neigh', 'show')) {
      if (lladdr === undefined || dev === 'eth0') continue;
      const owner = this.#ownerOf(dst);
      if (owner === undefined && /^(fe80|ff)/.test(dst)) continue;
      if (owner === undefined) hit('an invented neighbour in its table', this.#numberOf(dst));
      else if (owner !== lladdr && this.#areNew.includes(true) && NEWCOMERS.some((h) => h.mac === owner))
        hit('a newcomer with another MAC as a neighbour in its table');
      else if (owner !== lladdr && owner !== HOSTS.observed.mac)
        hit(`the neighbour of another MAC in its table: ${dst}`);
    }
    for (const { dev = '', protocol } of await ask('-6', 'route', 'show', 'default'))
      if (dev !== 'eth0' || protocol === 'ra') hit(`a default route by ${dev}`);
    const addresses = await ask('-6', 'address', 'show', 'dadfailed');
    for (const { ifname = '' } of addresses.filter((a) => (a.addr_info?.length ?? 0) > 0))
      hit(`an address of ${ifname.replace(/\d+$/, '')} is out of use`);
    if (hits.length > 0) {
      await lab.inHost(['ip', 'neigh', 'flush', 'all']);
      for (const { dev } of await ask('-6', 'route', 'show', 'default'))
        if (dev && dev !== 'eth0') await lab.inHost(['ip', '-6', 'route', 'del', 'default', 'dev', dev]);
    }
    return hits;
  }
  #ownerOf(address: string): string | undefined {
    const all = [...Object.values(HOSTS), ...[...this.#world.scenes.values()].map((s) => s.own)];
    const known = all.find((h) => h.ip4 === address || h.ip6 === address);
    const newest = /^(?:172\.30\.([5-8])\.20|fd00:db:a([5-8])::14)$/.exec(address);
    return known?.mac ?? (newest ? `02:42:ac:1e:0${newest[1] ?? newest[2]}:14` : undefined);
  }
  /** Of the address that `claimed` has made. */
  #numberOf(address: string): number | undefined {
    const recent = [...this.#senders.keys()].slice(-2 * BATCH);
    return recent.find((n) => claimed(this.#scene('bridge'), n) === address);
  }

  #isExplained(at: string, why: string, shot: Shot): boolean {
    return this.#found.some(
      (f) =>
        classOf(f.at, f.why).split(' ')[0] === at &&
        explains(f.shot, shot) &&
        (at !== 'host' || classOf(f.at, f.why) === classOf(at, why)),
    );
  }
  async #explain(round: number, plan: Round, shots: readonly Shot[], hit: Hit): Promise<boolean> {
    if (this.#found.length >= MOST_FOUND) return false;
    const seconds = this.#seconds();
    const known = hit.number === undefined ? undefined : this.#senders.get(hit.number)?.shot;
    if (known && this.#isExplained(hit.at, hit.why, known)) return false;
    const again = async (some: readonly Shot[], at: Round = plan): Promise<Hit | undefined> => {
      const first = this.#number;
      const hits = await this.#fire(at, at.kind === 'talk' ? [...some, { kind: 'talk', values: {} }] : some);
      return hits.find(
        (h) =>
          classOf(h.at, h.why) === classOf(hit.at, hit.why) && (h.number === undefined || h.number > first),
      );
    };
    let at = plan;
    let shot: Shot = known ?? (await this.#halved(shots, (some) => again(some)));
    let last = await again([shot, shot, shot]);
    if (last && plan.moment !== 'steady') {
      const steady: Round = {
        ...plan,
        moment: 'steady',
        place: plan.place === 'fresh' || plan.place === 'joins' ? 'bridge' : plan.place,
      };
      const found = await again([shot, shot, shot], steady);
      if (found) [at, last] = [steady, found];
    }
    for (let isSimpler = last !== undefined; isSimpler; ) {
      isSimpler = false;
      for (const other of simpler(shot)) {
        const found = await again([other, other, other], at);
        if (!found) continue;
        [shot, last, isSimpler] = [other, found, true];
        break;
      }
    }
    const found: Found = {
      at: hit.at,
      why: last?.why ?? hit.why,
      place: at.place,
      moment: at.moment,
      shot,
      bytes: (last ?? hit).bytes.toString('hex').slice(0, 600),
      seconds,
      round,
      isRepeated: last !== undefined,
    };
    if (
      this.#found.some(
        (f) =>
          classOf(f.at, f.why) === classOf(found.at, found.why) &&
          describe(f.shot) === describe(shot) &&
          f.place === found.place,
      )
    )
      return false;
    this.#found.push(found);
    this.#options.tell?.(tell(found, this.#options.seed));
    return true;
  }
  #told({ number, bytes }: Hit): string {
    const shot = this.#senders.get(number ?? 0);
    return `${shot ? `${shot.place} ${describe(shot.shot)}` : 'no number'} ${bytes.toString('hex').slice(0, 200)}`;
  }
  /** The shot of many that has an effect without a number; the first, if it takes more than one. */
  async #halved(
    shots: readonly Shot[],
    again: (some: readonly Shot[]) => Promise<Hit | undefined>,
  ): Promise<Shot> {
    let left = [...shots];
    while (left.length > 1) {
      const half = left.slice(0, Math.ceil(left.length / 2));
      const rest = left.slice(half.length);
      if (await again(half)) left = half;
      else if (await again(rest)) left = rest;
      else break;
    }
    return left[0] as Shot;
  }
}

interface Row {
  readonly dst?: string;
  readonly lladdr?: string;
  readonly dev?: string;
  readonly protocol?: string;
  readonly ifname?: string;
  readonly addr_info?: readonly unknown[];
}
/** Containers that may send before the service knows their veths. */
const NEWCOMERS = [HOSTS.bridge, HOSTS.fresh, HOSTS['joins-0'], HOSTS.joins];
const MOST_FOUND = 40;
/** In a round: the others are found again in a later one. */
const EXPLAINED = 4;
const SHARED: ReadonlySet<string> = new Set(Object.values(PLACES.shared));
function told(at: string, why: string, text: string): Hit {
  const bytes = Buffer.from(text);
  return { at, why, number: numberIn(bytes), bytes };
}
export const tell = (f: Found, seed: number): string =>
  [
    `HIT at ${f.at}: ${f.why}`,
    `  ${f.place}, ${f.moment}: ${describe(f.shot)}${f.isRepeated ? '' : ' (did not arrive again by itself)'}`,
    `  after ${f.seconds.toFixed(1)} s; again with --seed ${seed} --round ${f.round}`,
    `  ${f.bytes}`,
  ].join('\n');
