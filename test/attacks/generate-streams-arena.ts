/**
 * A lab in which generated conversations are tried: real servers, a container whose one entry is the permitted site, and one without a policy.
 * A hit is a site that a server was asked for by the first one, and that is not permitted; the server's own log says so.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { initialPacket } from '../pure/connections/hello-maker.js';
import { type Conversation, conversation, type Place, plainly } from './generate-streams-delivery.js';
import {
  type Flow,
  type InitialStep,
  type KernelTalk,
  Sender,
  type Step,
} from './generate-streams-sender.js';
import { OTHER, PERMITTED, type Seen, StreamServers } from './generate-streams-servers.js';
import type { Family } from './report.js';
import { type Bytes, bytes, u8 } from './wire.js';

const OPENS_MS = 3_000;
/** From the last step until the flow is left alone. */
const REST_MS = 250;
const UPLOAD_MS = 8_000;
const FIRST_PORT = 10_000;
const LAST_PORT = 29_000;
const FIRST_KERNEL_PORT = 30_000;
const LAST_KERNEL_PORT = 32_700;

export interface Hit {
  readonly conversation: Conversation;
  readonly seen: Seen;
}
/** What became of a conversation at the client. */
export interface Fate {
  readonly isOpen: boolean;
  readonly isAnswered: boolean;
}

/** The site as servers compare it: without its port, a last dot and capitals. */
const plain = (name: string): string =>
  name
    .toLowerCase()
    .replace(/:(80|443)?$/, '')
    .replace(/\.$/, '');
function isDenied({ names, isServed }: Seen): boolean {
  return names.length > 0 ? names.some((n) => plain(n) !== PERMITTED) : isServed;
}

type Side = 'held' | 'free';
interface Client {
  readonly sender: Sender;
  /** Source ports in use, and the last ones that were. */
  readonly ports: Map<number, Conversation>;
  next: number;
  nextKernel: number;
}

export class Arena {
  readonly lab: Lab;
  readonly #servers: StreamServers;
  readonly #clients: Readonly<Record<Side, Client>>;
  readonly #drawbridge: Drawbridge;
  readonly #tags = new Map<string, { readonly conversation: Conversation; readonly side: Side }>();
  #lastTag = 0;
  /** What servers were asked for by the container that is checked, and was not permitted. */
  readonly hits: Hit[] = [];
  /** Tags of the other container's conversations by which a server was asked for another site. */
  readonly potent = new Set<string>();

  private constructor(
    lab: Lab,
    servers: StreamServers,
    drawbridge: Drawbridge,
    clients: Readonly<Record<Side, Client>>,
  ) {
    [this.lab, this.#servers, this.#drawbridge, this.#clients] = [lab, servers, drawbridge, clients];
  }

  static async open(only?: readonly string[]): Promise<Arena> {
    const lab = await Lab.up({ sniffer: false });
    try {
      const servers = await StreamServers.start(lab, only);
      const all = servers.list.map(({ name }) => name);
      const [A, AAAA] = (['v4', 'v6'] as const).map((f) => all.map((name) => servers.addressOf(name, f)));
      await lab.dns.set({ [PERMITTED]: { A: A ?? [], AAAA: AAAA ?? [] } });
      const drawbridge = lab.drawbridge({});
      await drawbridge.ready();
      const client = async (
        name: string,
        labels: Readonly<Record<string, string>>,
        part: number,
      ): Promise<Client> => {
        const sender = await Sender.start(lab, name, labels);
        const half = (LAST_PORT - FIRST_PORT) / 2;
        const kernels = (LAST_KERNEL_PORT - FIRST_KERNEL_PORT) / 2;
        return {
          sender,
          ports: new Map(),
          next: FIRST_PORT + part * half,
          nextKernel: FIRST_KERNEL_PORT + part * kernels,
        };
      };
      const held = await client('held', { 'drawbridge.allow': PERMITTED }, 0);
      const free = await client('free', { 'drawbridge.mode': 'off' }, 1);
      const arena = new Arena(lab, servers, drawbridge, { held, free });
      await arena.#resolve(A?.[0] ?? '');
      return arena;
    } catch (e) {
      await lab.down();
      throw e;
    }
  }
  async #resolve(first: string): Promise<void> {
    const lookup = `require('node:dns').lookup('${PERMITTED}', { all: true }, (e, a) => { console.log(e ?? JSON.stringify(a)); });`;
    await waitFor('the permitted name to resolve', async () => {
      const { stdout } = await this.lab.exec('held', ['node', '-e', lookup]);
      return stdout.includes(first);
    });
  }

  async close(): Promise<void> {
    for (const { sender } of Object.values(this.#clients)) sender.close();
    await this.#drawbridge.stop();
    await this.lab.down();
  }

  get places(): Place[] {
    return this.#servers.list.flatMap(({ name, protocols }) =>
      protocols.map((protocol) => ({ server: name, protocol })),
    );
  }
  /** Ten letters that no other attempt of this lab has. */
  tag(): string {
    this.#lastTag += 1;
    return `t${this.#lastTag.toString(36).padStart(9, 'a')}`;
  }

  /** Makes the conversation; `seed` and the servers decide which. */
  async try(
    seed: number,
    places: readonly Place[],
    side: Side,
  ): Promise<{ readonly made: Conversation; readonly fate: Fate }> {
    const made = conversation(seed, this.tag(), places);
    return { made, fate: await this.run(made, side) };
  }

  async run(made: Conversation, side: Side): Promise<Fate> {
    this.#tags.set(made.tag, { conversation: made, side });
    const client = this.#clients[side];
    const { server, protocol, family } = made;
    const dst = this.#servers.addressOf(server, family);
    const port = protocol === 'http' ? 80 : 443;
    if (made.kernel) return this.#byKernel(client, made, made.kernel, dst, port);
    const fromPort = this.#port(client, made);
    const flow = client.sender.flow(dst, port, fromPort, made.isn);
    const isTcp = protocol === 'http' || protocol === 'tls';
    if (isTcp && !(await flow.open(made.opening, OPENS_MS))) {
      client.sender.forget(flow);
      return { isOpen: false, isAnswered: false };
    }
    let now = flow;
    for (const step of made.steps) {
      if (step.do === 'open') {
        const again = client.sender.flow(dst, port, fromPort, (now.isn + (step.shift ?? 500_000)) >>> 0);
        now = again;
        if (!(await again.open(step.opening, OPENS_MS))) break;
      } else await this.#step(now, step);
    }
    await sleep(REST_MS);
    const fate = { isOpen: true, isAnswered: flow.received > 0 || now.received > 0 };
    // the server forgets the connection
    if (isTcp) now.segment({ do: 'segment', at: now.acknowledged, text: '', how: { flags: 'RA' } });
    client.sender.forget(now);
    return fate;
  }

  async #byKernel(
    client: Client,
    made: Conversation,
    talk: KernelTalk,
    dst: string,
    port: number,
  ): Promise<Fate> {
    const half = (LAST_KERNEL_PORT - FIRST_KERNEL_PORT) / 2;
    const first = FIRST_KERNEL_PORT + (client === this.#clients.held ? 0 : half);
    const fromPort = client.nextKernel;
    client.nextKernel = fromPort + 1 < first + half ? fromPort + 1 : first;
    client.ports.set(fromPort, made);
    const { received = 0, error } = await client.sender.converse(dst, port, fromPort, talk, 1_500);
    return { isOpen: error === undefined, isAnswered: received > 0 };
  }

  #port(client: Client, made: Conversation): number {
    const first = client === this.#clients.held ? FIRST_PORT : (FIRST_PORT + LAST_PORT) / 2;
    // a conversation of QUIC may use the next port, too
    const port = client.next;
    client.next = port + 4 >= first + (LAST_PORT - FIRST_PORT) / 2 ? first : port + 2;
    client.ports.set(port, made);
    client.ports.set(port + 1, made);
    return port;
  }

  async #step(flow: Flow, step: Exclude<Step, { do: 'open' }>): Promise<void> {
    if (step.do === 'segment') flow.segment(step);
    else if (step.do === 'datagram') flow.datagram(Buffer.from(step.text, 'latin1'), step.how, step.from);
    else if (step.do === 'initial') flow.datagram(datagramOf(step.initial), {}, step.from);
    else if (step.do === 'upload') await flow.upload(step.at, step.length, UPLOAD_MS);
    else if (step.do === 'pause') await sleep(step.ms);
    else {
      const [received, acknowledged] = [flow.received, flow.acknowledged];
      const isThere = (): boolean =>
        flow.received > received ||
        flow.isReset ||
        (step.do === 'acknowledged' && flow.acknowledged > acknowledged);
      await waitFor('an answer', isThere, step.ms, 5).catch(() => undefined);
    }
  }

  /** Reads the logs. Lines that come later than this call are found by the next one. */
  judge(): void {
    for (const seen of this.#servers.news()) {
      if (!isDenied(seen)) continue;
      const found = this.#ofWhom(seen);
      if (found?.side === 'free') this.potent.add(found.conversation.tag);
      else if (found) this.hits.push({ conversation: found.conversation, seen });
      else if (this.phase === 'held') this.unknown.push(seen);
    }
  }
  /** Whose conversations there are now. A line of a log without a port, with a name of nobody's, is from one of them. */
  phase: Side = 'held';
  /** Sites that are not permitted, in lines of logs that do not tell which conversation has asked for them. Each counts as a hit. */
  readonly unknown: Seen[] = [];

  #ofWhom(seen: Seen): { conversation: Conversation; side: Side } | undefined {
    const text = [...seen.names, seen.target].join(' ').toLowerCase();
    const tag = [...text.matchAll(/t[a-z0-9]{9}/g)].map(([t]) => t).find((t) => this.#tags.has(t));
    if (tag !== undefined) return this.#tags.get(tag);
    for (const side of ['held', 'free'] as const) {
      const made = this.#clients[side].ports.get(seen.port);
      if (made?.server === seen.server) return { conversation: made, side };
    }
    return this.#mixtureOf(seen);
  }
  /** A name made of letters of the permitted name and of a conversation's own, each in its place: of segments that lie over each other. */
  #mixtureOf({ server, names }: Seen): { conversation: Conversation; side: Side } | undefined {
    const fits = (name: string, tag: string): boolean => {
      const other = `${tag}${OTHER}`;
      return (
        name.length === other.length &&
        [...name].every((letter, i) => letter === other[i] || letter === PERMITTED[i])
      );
    };
    const own = [...this.#tags.values()].filter(
      ({ conversation: c, side }) =>
        side === this.phase && c.server === server && names.some((n) => fits(n.toLowerCase(), c.tag)),
    );
    return own.length === 1 ? own[0] : undefined;
  }

  /** Waits until what was sent so far is in the logs, or in that of one server: it writes down a request that is sent now. */
  async settled(only?: string): Promise<void> {
    // those without HTTP write each line at once
    await sleep(REST_MS);
    const markers = this.places
      .filter(({ server, protocol }) => protocol === 'http' && (only === undefined || server === only))
      .map((place) => plainly(place, this.tag(), 'v4', true));
    const missing = (): Conversation[] => markers.filter(({ tag }) => !this.potent.has(tag));
    await Promise.all(markers.map((m) => this.run(m, 'free')));
    this.judge();
    await waitFor(
      'the servers to write down what they have seen',
      () => {
        if (missing().length > 0) this.judge();
        return missing().length === 0;
      },
      30_000,
    ).catch(() => {
      throw new Error(
        `no log has the last request: ${missing()
          .map(({ server }) => server)
          .join(', ')}`,
      );
    });
  }

  /** Each server answers the permitted site, and is asked for another one by the container without a policy: else the judge sees nothing. */
  async controls(): Promise<
    readonly {
      readonly place: Place;
      readonly family: Family;
      readonly answered: boolean;
      readonly denied: boolean;
    }[]
  > {
    const all = this.places.flatMap((place) =>
      (place.protocol === 'dtls' ? (['v4'] as const) : (['v4', 'v6'] as const)).map((family) => ({
        place,
        family,
      })),
    );
    const found = await Promise.all(
      all.map(async ({ place, family }) => {
        const bad = plainly(place, this.tag(), family, true);
        const [good] = await Promise.all([
          this.run(plainly(place, this.tag(), family, false), place.protocol === 'dtls' ? 'free' : 'held'),
          this.run(bad, 'free'),
        ]);
        return { place, family, tag: bad.tag, answered: good.isAnswered };
      }),
    );
    await this.settled();
    return found.map(({ tag, ...rest }) => ({ ...rest, denied: this.potent.has(tag) }));
  }
}

function datagramOf({ packets, tail = '' }: InitialStep): Bytes {
  // a server takes none of a datagram with fewer than 1,200 bytes (RFC 9000 14.1)
  const made = packets.map(({ frames, dcid, keyId, ...rest }) =>
    initialPacket({
      size: 1_170,
      ...rest,
      dcid: Buffer.from(dcid, 'hex'),
      ...(keyId === undefined ? {} : { keyId: Buffer.from(keyId, 'hex') }),
      frames: bytes(
        ...frames.flatMap(({ offset, text, before }) => [
          Buffer.from(before ?? '', 'hex'),
          cryptoFrame(offset, Buffer.from(text, 'latin1')),
        ]),
      ),
    }),
  );
  return bytes(...made, Buffer.from(tail, 'hex'));
}
const varint = (n: number): Bytes => (n < 64 ? u8(n) : u8(0x40 | (n >> 8), n & 255));
const cryptoFrame = (offset: number, data: Bytes): Bytes =>
  bytes(u8(6), varint(offset), varint(data.length), data);
