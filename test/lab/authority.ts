/** The DNS server of NET: UDP and TCP, v4 and v6, zones written at run time, a log of every question. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { createServer, type Socket as TcpSocket } from 'node:net';
import dnsPacket, { type Answer, type OptAnswer, type Packet } from 'dns-packet';
import { ADDRESSES } from './topology.js';
import { type NameRule, TYPE_NUMBERS, Zones } from './zone.js';

export interface Query {
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly proto: 'udp' | 'tcp';
  readonly from: string;
  readonly fromPort: number;
  /** The address that was asked; null when it has no socket of its own. */
  readonly to: string | null;
  /** Lower case. */
  readonly name: string;
  /** As it was written (0x20). */
  readonly asked: string;
  readonly type: string;
  readonly id: number;
}
type Send = (message: Buffer) => void;

const plain = (address: string): string => address.replace(/^::ffff:/, '');
const FLAGS = dnsPacket.RECURSION_AVAILABLE | dnsPacket.AUTHORITATIVE_ANSWER;
const RCODES: Readonly<Record<string, number>> = { NOERROR: 0, SERVFAIL: 2, NXDOMAIN: 3, REFUSED: 5 };

export class Authority {
  readonly zones = new Zones();
  #log: Query[] = [];

  /** All, or those for one name and below it. */
  queries(name?: string): readonly Query[] {
    return name === undefined
      ? this.#log
      : this.#log.filter((q) => q.name === name || q.name.endsWith(`.${name}`));
  }
  clearLog(): void {
    this.#log = [];
  }

  #note(query: Packet, source: Pick<Query, 'proto' | 'from' | 'fromPort' | 'to'>): void {
    const q = query.questions?.[0];
    if (q === undefined) return;
    const type = TYPE_NUMBERS[q.type] ?? q.type;
    this.#log.push({
      time: Date.now(),
      ...source,
      name: q.name.toLowerCase(),
      asked: q.name,
      type,
      id: query.id ?? 0,
    });
  }

  #reply(query: Packet, over: 'udp' | 'tcp', rule: NameRule | undefined): Buffer {
    const question = query.questions?.[0];
    if (question === undefined) return encode(query, 'REFUSED', {});
    const { rcode, ...sections } = this.zones.answer(question);
    const message = encode(query, rcode, withBeside(sections, rule));
    const opt = query.additionals?.find((r) => r.type === 'OPT');
    const limit = over === 'tcp' ? 65_535 : Math.max(512, opt?.type === 'OPT' ? opt.udpPayloadSize : 512);
    const cut = message.length > limit || (over === 'udp' && rule?.truncate === true);
    return cut ? encode(query, rcode, {}, dnsPacket.TRUNCATED_RESPONSE) : message;
  }

  /** `elsewhere`: answers from an address that was not asked, where there is one. */
  handle(
    message: Buffer,
    source: Pick<Query, 'proto' | 'from' | 'fromPort' | 'to'>,
    send: Send,
    elsewhere: Send = send,
  ): void {
    let query: Packet;
    try {
      query = dnsPacket.decode(message);
    } catch {
      return; // not DNS: a server says nothing
    }
    if (query.type !== 'query') return;
    this.#note(query, source);
    const name = query.questions?.[0]?.name ?? '';
    const rule = this.zones.find(name);
    if (rule?.lose !== undefined && (rule.lose < 0 || this.zones.turn(name, 'lose') < rule.lose)) return;
    const lie = rule?.forge && forged(query, rule);
    if (lie && rule.forge !== 'second') (rule.forge === 'source' ? elsewhere : send)(lie);
    const reply = (): void => {
      const isRefused = rule?.notAt?.includes(source.to ?? '') === true;
      send(isRefused ? encode(query, 'REFUSED', {}) : this.#reply(query, source.proto, rule));
      if (lie && rule.forge === 'second') send(lie);
    };
    if (rule?.delayMs) setTimeout(reply, rule.delayMs);
    else reply();
  }
}

function encode(query: Packet, rcode: string, sections: Partial<Packet>, extra = 0): Buffer {
  const desired = (query.flags ?? 0) & dnsPacket.RECURSION_DESIRED;
  const opt = query.additionals?.some((r) => r.type === 'OPT');
  const flags = FLAGS | desired | extra | (RCODES[rcode] ?? 0);
  return dnsPacket.encode({
    type: 'response',
    ...(query.id === undefined ? {} : { id: query.id }),
    flags,
    questions: query.questions ?? [],
    ...sections,
    additionals: [...(sections.additionals ?? []), ...(opt ? [OPT] : [])],
  });
}
const OPT: OptAnswer = {
  type: 'OPT',
  name: '.',
  udpPayloadSize: 1232,
  flags: 0,
  options: [],
  extendedRcode: 0,
  ednsVersion: 0,
  flag_do: false,
};

function withBeside(sections: Partial<Packet>, rule: NameRule | undefined): Partial<Packet> {
  const of = (section: 'answers' | 'authorities' | 'additionals'): Answer[] => [
    ...(sections[section] ?? []),
    ...(rule?.beside ?? [])
      .filter((r) => r.section === section)
      .map(({ section: _, ...r }) => ({ ...r, ttl: rule?.ttl ?? 60, class: 'IN' }) as Answer),
  ];
  return { answers: of('answers'), authorities: of('authorities'), additionals: of('additionals') };
}

const swapCase = (s: string): string =>
  s.replace(/[a-z]/gi, (c) => (c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase()));
function forged(query: Packet, rule: NameRule): Buffer {
  const asked = query.questions?.[0]?.name ?? '';
  const data = rule.forgedAddress ?? '192.0.2.66';
  const type = data.includes(':') ? 'AAAA' : 'A';
  const name = rule.forge === 'question' ? 'forged.invalid' : rule.forge === 'case' ? swapCase(asked) : asked;
  const id = rule.forge === 'id' ? ((query.id ?? 0) + 1) % 65_536 : (query.id ?? 0);
  const answers = [{ name, type, ttl: 60, class: 'IN', data } as const];
  const questions = [{ name, type, class: 'IN' } as const];
  return encode({ ...query, id, questions }, 'NOERROR', { answers });
}

function listenUdp(
  authority: Authority,
  address: string,
  to: string | null,
  others: readonly Socket[],
): Promise<Socket> {
  const socket = createSocket({
    type: address.includes(':') ? 'udp6' : 'udp4',
    ipv6Only: address.includes(':'),
  });
  socket.on('message', (message: Buffer, peer: RemoteInfo) => {
    const source = { proto: 'udp', from: peer.address, fromPort: peer.port, to } as const;
    const from = (s: Socket) => (reply: Buffer) => s.send(reply, peer.port, peer.address);
    const other = others.find((s) => s !== socket && s.address().family === socket.address().family);
    authority.handle(message, source, from(socket), from(other ?? socket));
  });
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.bind({ address, port: 53, exclusive: true }, () => resolve(socket));
  });
}

function serveTcp(authority: Authority, socket: TcpSocket): void {
  let buffer = Buffer.alloc(0);
  const source = {
    proto: 'tcp',
    from: plain(socket.remoteAddress ?? ''),
    fromPort: socket.remotePort ?? 0,
    to: plain(socket.localAddress ?? ''),
  } as const;
  const send = (reply: Buffer): void => {
    const length = Buffer.from([reply.length >> 8, reply.length & 255]);
    if (socket.writable) socket.write(Buffer.concat([length, reply]));
  };
  socket.on('error', () => socket.destroy());
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    while (buffer.length >= 2 && buffer.length >= 2 + buffer.readUInt16BE(0)) {
      const size = buffer.readUInt16BE(0);
      authority.handle(buffer.subarray(2, 2 + size), source, send);
      buffer = buffer.subarray(2 + size);
    }
  });
}

/** Binds every authority address, and the gateway's, where questions to any other address arrive. */
export async function startAuthority(): Promise<Authority> {
  const authority = new Authority();
  const own = [...ADDRESSES.authority4, ...ADDRESSES.authority6];
  const shared = [ADDRESSES.gateway4, ADDRESSES.gateway6];
  const sockets: Socket[] = [];
  const listen = async (a: string, to: string | null): Promise<void> => {
    sockets.push(await listenUdp(authority, a, to, sockets));
  };
  await Promise.all([
    ...own.map((a) => listen(a, a)),
    ...shared.map((a) => listen(a, null)),
    new Promise<void>((resolve, reject) => {
      const server = createServer((socket) => serveTcp(authority, socket));
      server.on('error', reject);
      server.listen({ port: 53, host: '::' }, resolve);
    }),
  ]);
  return authority;
}
