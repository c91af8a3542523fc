/** Techniques with a name, each a few shots: sent together, and looked for at their receivers by their numbers. */
import { waitFor } from '../../lab/process.js';
import type { Described, Family } from '../report.js';
import { frameOps, type Op, type Opened, type Scene, SITE, serverOf, tagOf, talkOps } from './build.js';
import { type Arrival, judge, type Known, numberIn, permittedNumber } from './judge.js';
import { describe, type Shot, shotOf } from './shots.js';
import { HOSTS, type World } from './world.js';

/** One shot of a technique. */
export interface Sent {
  readonly world: World;
  readonly family: Family;
  readonly n: number;
  readonly scene: Scene;
  /** Of the connection of `opens`. */
  readonly opened?: Opened;
}
export interface Named extends Described {
  /** Default: a container of the first network. */
  readonly place?: 'bridge' | 'observed';
  /** As `npm run attacks:generate -- --shot` takes them, without a family. In the control each of them must arrive. */
  readonly shots?: readonly string[];
  /** A server with which its sender has opened a connection. */
  readonly opens?: Readonly<Record<Family, string>> & { readonly port: number };
  /** Permitted ones that come before all others, twice: the service has read the first ones when the second ones come. */
  readonly before?: (sent: Sent) => readonly Op[];
  /** In the place of shots: what no dimension of the generator makes. */
  readonly make?: (sent: Sent) => readonly Op[];
  /** Where it must not be seen; default: net. A receiver, and for the host the beginning of the kind of its socket (programs/watch.py). */
  readonly at?: string;
  /** Whether it is where it must not be; default: something with its number is there, and the policy does not permit it. */
  readonly reached?: (sent: Sent, arrivals: readonly Arrival[]) => boolean | Promise<boolean>;
}

const ARRIVES_MS = 20_000;
const FAMILIES: readonly Family[] = ['v4', 'v6'];
/** Those of generated shots are smaller. */
let last = 0x1000_0000;
const numbered = (): number => ++last;
const requested = (n: number): string => `/${tagOf(n)}`;

export const knownOf = (world: World, senderOf: Known['senderOf']): Known => {
  const own = [...world.scenes.values()].flatMap((s) => [s.own, s.seenAs]);
  return { senderOf, hosts: HOSTS, sources: new Set([...own.flatMap((h) => [h.ip4, h.ip6]), '::1']) };
};

interface Shooting {
  readonly sent: Sent;
  readonly place: 'bridge' | 'observed';
  readonly of?: { readonly named: Named; readonly family: Family };
  readonly shot?: Shot;
}
/** All techniques, sent once. */
export class Salvo {
  readonly #world: World;
  readonly #all: Shooting[] = [];
  /** What is permitted, sent behind them on the same ways: when it has arrived, they would have. */
  readonly #plain: readonly (readonly Shooting[])[];
  readonly #arrivals: Arrival[] = [];
  readonly #known: Known;

  constructor(world: World, techniques: readonly Named[]) {
    this.#world = world;
    for (const named of techniques)
      for (const family of named.families)
        for (const shot of named.shots ?? [undefined])
          this.#all.push({ ...this.#shooting(named.place ?? 'bridge', family, shot), of: { named, family } });
    this.#plain = [0, 1, 2].map(() =>
      FAMILIES.flatMap((family) => [
        this.#shooting('bridge', family, 'frame'),
        this.#shooting('observed', family, 'frame'),
        this.#shooting('bridge', family, 'talk'),
      ]),
    );
    const places = new Map([...this.#all, ...this.#plain.flat()].map(({ sent, place }) => [sent.n, place]));
    this.#known = knownOf(world, (n) => {
      const place = places.get(n);
      return place && { place, isLocked: false, isNew: false };
    });
  }
  #shooting(place: 'bridge' | 'observed', family: Family, shot: string | undefined): Shooting {
    const scene = this.#world.scenes.get(place);
    if (!scene) throw new Error(`no scene for ${place}`);
    const sent = { world: this.#world, family, n: numbered(), scene };
    return { place, sent, ...(shot === undefined ? {} : { shot: shotOf(`${shot} family=${family}`) }) };
  }

  /** Sends all, and waits until the permitted ones have arrived. */
  async send(): Promise<void> {
    await this.#world.lab.web.clear();
    const opened = await this.#open([...this.#all, ...this.#plain.flat()]);
    const opsOf = ({ sent, shot, of }: Shooting): readonly Op[] => {
      const own = opened.get(sent.n);
      if (of?.named.make) return of.named.make(own ? { ...sent, opened: own } : sent);
      if (shot?.kind === 'talk') return talkOps(shot, sent.scene, sent.n, own as Opened);
      return shot ? frameOps(shot, sent.scene, sent.n) : [];
    };
    const before = ({ sent, of }: Shooting): readonly Op[] => of?.named.before?.(sent) ?? [];
    for (const [i, ops] of [before, before, opsOf].entries()) {
      await this.#shoot(this.#all, ops);
      await this.#arrive(this.#plain[i] ?? [], opsOf);
    }
    await this.#look();
  }
  async #arrive(plain: readonly Shooting[], opsOf: (s: Shooting) => readonly Op[]): Promise<void> {
    let missing: readonly Shooting[] = [];
    const isThere = async (): Promise<boolean> => {
      missing = await this.#missing(plain);
      if (missing.length > 0) await this.#shoot(missing, opsOf);
      return missing.length === 0;
    };
    await waitFor('what is permitted to arrive', isThere, ARRIVES_MS, 100).catch((e: Error) => {
      throw new Error(
        `${e.message}: ${missing.map((m) => `${m.place} ${m.shot && describe(m.shot)}`).join(', ')}`,
      );
    });
  }
  async #shoot(some: readonly Shooting[], opsOf: (s: Shooting) => readonly Op[]): Promise<void> {
    for (const place of ['bridge', 'observed'] as const)
      await this.#world.ask(place, { ops: some.filter((s) => s.place === place).flatMap(opsOf) });
  }
  async #open(all: readonly Shooting[]): Promise<ReadonlyMap<number, Opened>> {
    const talking = all.filter(({ shot, of }) => shot?.kind === 'talk' || of?.named.opens);
    const dev = talking[0]?.sent.scene.device ?? '';
    const to = talking.map(({ shot, sent, of }): [string, number] => {
      const server = of?.named.opens;
      return server ? [server[sent.family], server.port] : serverOf(shot as Shot);
    });
    const { talks } = await this.#world.ask('bridge', { talk: { dev, to } });
    return new Map(
      talking.map(({ sent }, i) => {
        const opened = talks[i];
        if (!opened) throw new Error(`no connection to ${to[i]?.join(' ')} came about`);
        return [sent.n, opened];
      }),
    );
  }
  async #look(): Promise<void> {
    this.#arrivals.push(...(await this.#world.watch.sync()));
  }
  async #missing(plain: readonly Shooting[]): Promise<readonly Shooting[]> {
    await this.#look();
    const arrived = new Set(this.#arrivals.map(permittedNumber));
    const paths = new Set((await this.#world.lab.web.requests()).map((r) => r.path));
    return plain.filter(({ sent, shot }) =>
      shot?.kind === 'talk' ? !paths.has(requested(sent.n)) : !arrived.has(sent.n),
    );
  }

  /** Of each shot of a technique, whether it was where it must not be. */
  async reached({ id }: Named, family: Family): Promise<readonly boolean[]> {
    const own = this.#all.filter(({ of }) => of?.named.id === id && of.family === family);
    return Promise.all(
      own.map(({ sent, of }) => of?.named.reached?.(sent, this.#arrivals) ?? this.#isAt(sent, of?.named.at)),
    );
  }
  #isAt({ n }: Sent, at = 'net'): boolean {
    const isThere = (a: Arrival): boolean => `${a.at} ${a.about}`.startsWith(at);
    return this.#arrivals.some((a) => isThere(a) && judge(a, this.#known)?.number === n);
  }
  /** The same for a control. It waits, because its packets may not have arrived yet. */
  async arrives(named: Named, family: Family): Promise<readonly boolean[]> {
    const all = async (): Promise<readonly boolean[] | undefined> => {
      const reached = await this.reached(named, family);
      if (reached.every((r) => r)) return reached;
      await this.#look();
      return undefined;
    };
    return waitFor(named.id, all, ARRIVES_MS / 2, 200).catch(() => this.reached(named, family));
  }
  /** What has arrived with the number of a technique, for the message of a failure. */
  seen({ id }: Named, family: Family): string {
    const own = this.#all.filter(({ of }) => of?.named.id === id && of.family === family);
    const numbers = new Set<number | undefined>(own.map(({ sent }) => sent.n));
    return this.#arrivals
      .filter((a) => numbers.has(numberIn(a.bytes)))
      .map(
        (a) =>
          `${a.at} ${a.about} ${judge(a, this.#known)?.why ?? 'permitted'} ${a.bytes.toString('hex', 0, 120)}`,
      )
      .join('\n');
  }
  /** Names that the resolver has sent to the authority. */
  static async asked({ world, n }: Sent): Promise<boolean> {
    return (await world.lab.dns.queries(SITE.friends)).some(({ name }) => name.includes(tagOf(n)));
  }
}
