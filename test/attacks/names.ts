/**
 * Attacks against the check of names. Each is tried at the same time, the very same way, by two containers of one host: the one that is checked
 * must be held, and the one whose entry has `tls=off` must get through. The truth is what the server's kernel has put together, or the
 * datagrams that the internet has seen. The name that is not permitted, or what it would carry, has the attempt's own tag.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge, DrawbridgeSpec } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import type { Answer, Stream } from '../lab/sink.js';
import { SINK } from '../lab/topology.js';
import type { NameRule } from '../lab/zone.js';
import { RawHost, type RawTcp, rawTcp, type Sent } from './raw-tcp.js';
import { announce, type Described, type Family, report, type Side } from './report.js';
import { ip, udp } from './wire.js';

export const BOTH: readonly Family[] = ['v4', 'v6'];
export const GOOD = 'good.example';
/** Of GOOD, and of every other site. */
export const SHARED = { v4: `${SINK.prefix4}1`, v6: `${SINK.prefix6}1` } as const;
/** Of another site alone. */
export const OTHER = { v4: `${SINK.prefix4}2`, v6: `${SINK.prefix6}2` } as const;
const ARRIVES_MS = 8_000;
/** What waits for the rest of a hello is refused after 3 s. */
const REFUSED_MS = 4_500;
const OPENS_MS = 6_000;
/** Nothing answers while the check is away. */
const AWAY_MS = 1_500;
const PORTS_EACH = 8;
const FIRST_PORT = 10_000;

export interface NameAttack extends Described {
  /** Of the server; default 443. */
  readonly port?: 80 | 443;
  /** The control's policy; default: the same entry with tls=off. Or no policy: what other rules hold as well. */
  readonly control?: 'unchecked' | 'no policy';
  /** Bytes that are permitted come before, so that something of the held one arrives. */
  readonly hasPermitted?: true;
  attack(t: Try): Promise<unknown>;
  /** Whether the attack got through; default: the tag is in one of the streams. */
  arrived?(t: Try, streams: readonly Stream[]): boolean | Promise<boolean>;
}

const UDP = 17;
/** What is different in each packet that is encrypted: behind its header. */
const markOf = (payload: Buffer): string =>
  payload.subarray(Math.min(60, Math.max(0, payload.length - 30)), 90).toString('latin1');

/** One attempt of one attack. */
export class Try {
  readonly lab: Lab;
  readonly side: Side;
  readonly family: Family;
  readonly host: RawHost;
  readonly container: Container;
  readonly drawbridge: Drawbridge;
  readonly port: number;
  /** In every forbidden name, and nowhere else. */
  readonly tag: string;
  readonly #firstPort: number;
  readonly #opensWithin: number;
  #used = 0;
  readonly connections: RawTcp[] = [];
  /** Beginnings of forbidden datagrams. */
  readonly datagrams: string[] = [];

  constructor(
    o: Pick<Try, 'lab' | 'side' | 'family' | 'host' | 'container' | 'drawbridge' | 'port' | 'tag'> & {
      firstPort: number;
      opensWithin: number;
    },
  ) {
    [this.lab, this.side, this.family, this.host] = [o.lab, o.side, o.family, o.host];
    [this.container, this.drawbridge, this.port, this.tag] = [o.container, o.drawbridge, o.port, o.tag];
    this.#firstPort = o.firstPort;
    this.#opensWithin = o.opensWithin;
  }
  get evil(): string {
    return `${this.tag}.evil.example`;
  }
  get shared(): string {
    return SHARED[this.family];
  }
  get isV4(): boolean {
    return this.family === 'v4';
  }
  nextPort(): number {
    if (this.#used >= PORTS_EACH) throw new Error(`${this.tag} has no more ports`);
    return this.#firstPort + this.#used++;
  }
  connection(o: { dst?: string; fromPort?: number; isn?: number; port?: number } = {}): RawTcp {
    const made = this.host.tcp(
      o.dst ?? this.shared,
      o.port ?? this.port,
      o.fromPort ?? this.nextPort(),
      o.isn,
    );
    this.connections.push(made);
    return made;
  }
  /** A connection that is open. Throws when the handshake was not answered: nothing of these attacks is held there. */
  async open(
    o: Parameters<Try['connection']>[0] & { answers?: readonly Answer[]; syn?: Sent } = {},
  ): Promise<RawTcp> {
    const made = this.connection(o);
    if (o.answers) await this.lab.web.answerStream(made.fromPort, o.answers);
    await made.open(o.syn, this.#opensWithin);
    return made;
  }
  /** A datagram to the shared address, from this port of the attempt. */
  datagram(
    fromPort: number,
    payload: Buffer,
    o: { isForbidden?: boolean; change?: (p: Buffer) => Buffer; dst?: string } = {},
  ): void {
    const e = this.host.ends(o.dst ?? this.shared);
    const made = ip(e, UDP, udp(e, fromPort, 443, payload));
    if (o.isForbidden !== false) this.datagrams.push(markOf(payload));
    this.host.send(o.change ? o.change(made) : made);
  }
  async datagramsArrived(): Promise<boolean> {
    for (const payloadIncludes of this.datagrams) if (await this.#hasLeft(payloadIncludes)) return true;
    return false;
  }
  async #hasLeft(payloadIncludes: string): Promise<boolean> {
    return (await this.lab.sniffer.count({ direction: 'out', proto: 'udp', payloadIncludes })) > 0;
  }
  /** Sends a permitted datagram until one has left. Throws when none does in time. */
  async datagramThatLeaves(fromPort: number, payload: Buffer, dst = this.shared): Promise<void> {
    await waitFor(`a datagram of ${this.tag} to leave`, async () => {
      this.datagram(fromPort, payload, { isForbidden: false, dst });
      return this.#hasLeft(markOf(payload));
    });
  }
  streams(): Promise<readonly Stream[]> {
    return this.lab.web.streams(this.#firstPort, this.#firstPort + PORTS_EACH);
  }
  /** Waits until this much of what was sent on the connection has arrived; false: it did not in time. */
  async received(c: RawTcp, bytes: number, ms = 3_000): Promise<boolean> {
    const has = async (): Promise<boolean> =>
      (await this.lab.web.streams(c.fromPort, c.fromPort + 1)).some((s) => s.text.length >= bytes);
    return waitFor('bytes to arrive', has, ms).catch(() => false);
  }
  /** Nothing can be seen of what the attack waits for. */
  never(ms: number): Promise<void> {
    return sleep(ms);
  }
  until(isSo: () => boolean, ms = 3_000): Promise<boolean> {
    return waitFor('it', isSo, ms, 5).catch(() => false);
  }
  answered(c: RawTcp, bytes = 1, ms = 3_000): Promise<boolean> {
    return waitFor('an answer', () => c.received.length >= bytes || c.isReset, ms, 5).catch(() => false);
  }
}

export interface NamesOptions {
  readonly drawbridge?: DrawbridgeSpec;
  /** Further records of the permitted name. */
  readonly ofGood?: NameRule;
  readonly sniffer?: boolean;
  /** Both containers are in the host's network. With NAMES_IN_HOST=1 they are in every suite. */
  readonly isInHost?: true;
  /** Once the lab is there, before Drawbridge. */
  prepare?(lab: Lab): Promise<void>;
  /** Once both containers have resolved the name, before the attacks. */
  before?(lab: Lab, drawbridge: Drawbridge, held: RawHost): Promise<void>;
  /** After all, before Drawbridge ends. */
  after?(drawbridge: Drawbridge): void;
  /** The check does not answer: nothing that it would queue goes on. */
  readonly isAway?: true;
  /** In the end the service starts again, and evaluates what has waited. */
  readonly isBack?: true;
}
/** Routers on the way to the servers: what has few hops left does not arrive. */
export async function distance(lab: Lab): Promise<void> {
  for (const [tables, ...match] of [
    ['iptables', '-m', 'ttl', '--ttl-lt', '55'],
    ['ip6tables', '-m', 'hl', '--hl-lt', '55'],
  ] as const)
    await lab.inNet(
      [tables, '-t', 'mangle', '-A', 'PREROUTING', '-i', 'eth0', '-p', 'tcp', ...match, '-j', 'DROP'],
      { check: true },
    );
}
interface Result {
  readonly out: boolean;
  readonly streams: readonly Stream[];
  /** Port and state of each connection. */
  readonly connections: readonly string[];
}
const keyOf = (a: Described, family: Family, side: Side): string => `${a.id} ${family} ${side}`;

/** Declares the tests of one file. All attacks are under way at the same time. */
export function namesSuite(name: string, options: NamesOptions, attacks: readonly NameAttack[]): void {
  let lab: Lab;
  let drawbridge: Drawbridge;
  const hosts = new Map<string, { host: RawHost; container: Container }>();
  const results = new Map<string, Promise<Result>>();
  const tries: { readonly attack: NameAttack; readonly t: Try }[] = [];
  for (const a of attacks) announce(a);

  const start = async (named: string, labels: Readonly<Record<string, string>>): Promise<void> => {
    const isInHost = options.isInHost ?? process.env.NAMES_IN_HOST === '1';
    const { host4, host6 } = lab.addresses;
    const container = await lab.start(rawTcp({ name: named, labels }, isInHost ? [host4, host6] : []));
    const host = await (isInHost ? RawHost.ofHost : RawHost.of)(lab, container);
    hosts.set(named, { host, container });
    const lookup = `const d = require('node:dns'); d.lookup('${GOOD}', { all: true }, (e, a) => { console.log(e ?? JSON.stringify(a)); });`;
    // the first query of the first container in the host's network may find no resolver yet
    await waitFor(`${named} to resolve ${GOOD}`, async () => {
      const { stdout } = await container.exec(['node', '-e', lookup]);
      if (!stdout.includes(SHARED.v4) || !stdout.includes(SHARED.v6)) return false;
      return !isInHost || (await container.probe('tcp', SHARED.v4, 443)).ok;
    });
    await container.probe('dns', '8.8.8.8', GOOD, 'HTTPS');
  };
  const arrived = async ({ attack, t }: (typeof tries)[number]): Promise<Result> => {
    const streams = await t.streams();
    const out = await (attack.arrived?.(t, streams) ?? streams.some((s) => s.text.includes(t.tag)));
    const connections = t.connections.map(
      (c) =>
        `${c.fromPort} ${c.serverIsn === undefined ? 'not open' : c.isReset ? 'reset' : c.isEnded ? 'ended' : 'open'}`,
    );
    return { out, streams, connections };
  };
  const run = async (one: (typeof tries)[number]): Promise<Result> => {
    const { attack, t } = one;
    await attack.attack(t);
    if (t.side === 'control') {
      await waitFor('it to arrive', async () => (await arrived(one)).out, ARRIVES_MS).catch(() => undefined);
      return arrived(one);
    }
    const began = performance.now();
    const isOver = (): boolean =>
      performance.now() - began > (options.isAway ? AWAY_MS : REFUSED_MS) ||
      (t.connections.length > 0 && t.connections.every((c) => c.isReset));
    await waitFor('the refusal', isOver, 2 * REFUSED_MS, 50);
    return arrived(one);
  };

  describe(name, () => {
    beforeAll(async () => {
      lab = await Lab.up({ sniffer: options.sniffer ?? false });
      const addresses = { A: [SHARED.v4], AAAA: [SHARED.v6] };
      await lab.dns.set({ [GOOD]: { ...addresses, ...options.ofGood }, '*.evil.example': addresses });
      await options.prepare?.(lab);
      drawbridge = lab.drawbridge(options.drawbridge ?? {});
      await drawbridge.ready();
      await start('held', { 'drawbridge.allow': GOOD });
      await start('unchecked', { 'drawbridge.allow': `${GOOD} tls=off` });
      if (attacks.some((a) => a.control === 'no policy')) await start('free', { 'drawbridge.mode': 'off' });
      await options.before?.(lab, drawbridge, (hosts.get('held') as { host: RawHost }).host);
      let firstPort = FIRST_PORT;
      for (const attack of attacks)
        for (const family of attack.families)
          for (const side of ['control', 'held'] as const) {
            const { host, container } = hosts.get(
              side === 'held' ? 'held' : attack.control === 'no policy' ? 'free' : 'unchecked',
            ) as { host: RawHost; container: Container };
            const opensWithin = options.isAway && side === 'held' ? AWAY_MS : OPENS_MS;
            const tag = `${attack.id}-${family}${side === 'control' ? 'c' : 'h'}`;
            const common = { lab, side, family, host, container, drawbridge, tag, firstPort, opensWithin };
            const one = { attack, t: new Try({ ...common, port: attack.port ?? 443 }) };
            firstPort += PORTS_EACH;
            tries.push(one);
            results.set(keyOf(attack, family, side), run(one));
          }
      await Promise.allSettled(results.values());
    });
    afterAll(async () => {
      for (const { host } of hosts.values()) host.close();
      options.after?.(drawbridge);
      await lab?.down();
    });

    for (const a of attacks)
      for (const family of a.families)
        it(`${a.id} ${family}: ${a.title}`, async () => {
          const control = await results.get(keyOf(a, family, 'control'));
          const held = await results.get(keyOf(a, family, 'held'));
          report(a, family, 'control', control?.out === true);
          report(a, family, 'held', held?.out === true);
          expect({ control: control?.out, held: held?.out }, shown(control, held)).toEqual({
            control: true,
            held: a.notStopped !== undefined,
          });
          // no byte of a hello that is refused is delivered
          if (a.hasPermitted !== true && a.notStopped === undefined)
            expect(held?.streams.filter((s) => s.text !== '')).toEqual([]);
        });

    it('has held all until now', async () => {
      if (options.isBack) {
        drawbridge.start();
        await drawbridge.ready();
        await waitFor('nothing to wait any more', async () => (await waitingIn(lab)) === 0, 30_000);
      }
      for (const one of tries)
        if (one.t.side === 'held' && one.attack.notStopped === undefined)
          expect({ tag: one.t.tag, out: (await arrived(one)).out }).toEqual({ tag: one.t.tag, out: false });
    });
    it.skipIf(options.isAway && !options.isBack)('permits the site itself', async () => {
      const held = hosts.get('held')?.container;
      const permitted = await held?.probe('tcp', SHARED.v4, 443, '--timeout', 5_000);
      const flows = permitted?.ok ? '' : (await drawbridge.get('/v1/flows?limit=5')).body;
      expect(permitted, flows).toMatchObject({ ok: true });
    });
  });
}

/** Packets in the queues of the kernel. */
async function waitingIn(lab: Lab): Promise<number> {
  const { stdout } = await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue'], { check: true });
  return stdout.split('\n').reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[2] ?? 0), 0);
}

const shown = (control: Result | undefined, held: Result | undefined): string => {
  const texts = (r?: Result): string[] =>
    (r?.streams ?? []).map((s) => `${s.fromPort}: ${s.text.replace(/[^\x20-\x7e]+/g, '.').slice(-200)}`);
  const of = (r?: Result): string => `${texts(r).join(' | ')} (${r?.connections.join(', ') ?? ''})`;
  return `arrived of the control: ${of(control)}; of the one that is held: ${of(held)}`;
};
