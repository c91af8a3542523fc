/** A DNS authority that answers as a test wants it to, well or badly, and remembers every question. */
import { randomInt } from 'node:crypto';
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { type Answer, type DecodedPacket, decode, encode } from 'dns-packet';

export interface Response {
  readonly answers?: readonly Answer[];
  readonly authorities?: readonly Answer[];
  /** 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN … */
  readonly rcode?: number;
  /** Over UDP only. */
  readonly truncated?: boolean;
  readonly lost?: boolean;
  readonly delayMs?: number;
  /** The question comes back in lower case. */
  readonly noEcho?: boolean;
  /** Spoils a copy that is sent first. */
  readonly forge?: (reply: Buffer) => void;
  /** The spoiled copy comes from another port. */
  readonly forgeFromElsewhere?: boolean;
  /** Spoils the answer itself. */
  readonly raw?: (reply: Buffer) => Buffer;
}
export interface Asked {
  readonly name: string;
  readonly type: string;
  readonly transport: 'udp' | 'tcp';
  readonly sourcePort: number;
  readonly id: number;
  readonly asWritten: string;
  readonly packet: Buffer;
}
export type Zone = (name: string, type: string, nth: number, transport: 'udp' | 'tcp') => Response;

/** Below the range from which the kernel takes ports of outgoing connections, which could take one of a pair first. */
const PORTS = { from: 20_000, count: 10_000 };
const TRIES = 100;

/** A port that is free over UDP and over TCP at this address. */
export async function freePair(address: string): Promise<number> {
  for (let i = 0; i < TRIES; i++) {
    const port = PORTS.from + randomInt(PORTS.count);
    if (
      (await isFree(createSocket(udpOf(address)), address, port)) &&
      (await isFree(createServer(), address, port))
    )
      return port;
  }
  throw new Error(`no port of ${address} is free over both UDP and TCP`);
}
const udpOf = (address: string): 'udp4' | 'udp6' => (address.includes(':') ? 'udp6' : 'udp4');

async function isFree(socket: UdpSocket | Server, address: string, port: number): Promise<boolean> {
  const listening = once(socket, 'listening');
  if ('listen' in socket) socket.listen(port, address);
  else socket.bind(port, address);
  try {
    await listening;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw e;
    return false;
  }
  const closed = once(socket, 'close');
  socket.close();
  await closed;
  return true;
}

export class Authority {
  readonly log: Asked[] = [];
  readonly address: string;
  port = 0;
  zone: Zone;
  readonly #udp: UdpSocket;
  readonly #tcp: Server;
  readonly #streams = new Set<Socket>();

  constructor(address: string, zone: Zone) {
    this.address = address;
    this.zone = zone;
    this.#udp = createSocket(udpOf(address));
    this.#udp.on('message', (m, from) => this.#datagram(m, from));
    this.#tcp = createServer((socket) => this.#stream(socket));
  }

  async start(port?: number): Promise<this> {
    this.port = port ?? (await freePair(this.address));
    this.#udp.bind(this.port, this.address);
    await once(this.#udp, 'listening');
    this.#tcp.listen(this.port, this.address);
    await once(this.#tcp, 'listening');
    return this;
  }

  /** Serves sockets that stand elsewhere, already bound. */
  serve(udpFd: number, tcpFd: number): void {
    this.#udp.bind({ fd: udpFd });
    this.#tcp.listen({ fd: tcpFd });
  }

  get endpoint(): string {
    return this.address.includes(':') ? `[${this.address}]:${this.port}` : `${this.address}:${this.port}`;
  }

  asked(name: string): readonly Asked[] {
    return this.log.filter((q) => q.name === name);
  }

  #answer(
    packet: Buffer,
    transport: 'udp' | 'tcp',
    sourcePort: number,
  ): { reply: Buffer; response: Response } {
    const query = decode(packet);
    const question = query.questions?.[0];
    const asWritten = question?.name ?? '';
    const name = asWritten.toLowerCase();
    const type = question?.type ?? '';
    this.log.push({ name, type, transport, sourcePort, id: query.id ?? 0, asWritten, packet });
    const nth = this.log.filter((q) => q.name === name && q.type === type).length;
    const response = this.zone(name, type, nth, transport);
    const encoded = encodeResponse(query, response, transport);
    return { reply: response.raw?.(encoded) ?? encoded, response };
  }

  #datagram(packet: Buffer, from: RemoteInfo): void {
    const { reply, response } = this.#answer(packet, 'udp', from.port);
    if (response.forge !== undefined) this.#forge(reply, response, from);
    if (response.lost) return;
    setTimeout(() => this.#udp.send(reply, from.port, from.address), response.delayMs ?? 0);
  }

  #forge(reply: Buffer, response: Response, to: RemoteInfo): void {
    const forged = Buffer.from(reply);
    response.forge?.(forged);
    if (!response.forgeFromElsewhere) {
      this.#udp.send(forged, to.port, to.address);
      return;
    }
    const other = createSocket('udp4');
    other.send(forged, to.port, to.address, () => other.close());
  }

  #stream(socket: Socket): void {
    this.#streams.add(socket);
    socket.on('close', () => this.#streams.delete(socket));
    socket.on('error', () => socket.destroy());
    let pending = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      if (pending.length < 2 || pending.length < 2 + pending.readUInt16BE(0)) return;
      const { reply, response } = this.#answer(pending.subarray(2), 'tcp', socket.remotePort ?? 0);
      pending = Buffer.alloc(0);
      const length = Buffer.alloc(2);
      length.writeUInt16BE(reply.length);
      if (!response.lost) socket.end(Buffer.concat([length, reply]));
    });
  }

  close(): void {
    this.#udp.close();
    this.#tcp.close();
    for (const s of this.#streams) s.destroy();
  }
}

function encodeResponse(query: DecodedPacket, response: Response, transport: 'udp' | 'tcp'): Buffer {
  const cut = response.truncated === true && transport === 'udp';
  const question = query.questions?.[0];
  return encode({
    type: 'response',
    id: query.id ?? 0,
    flags: 0x0180 | (cut ? 0x0200 : 0) | (response.rcode ?? 0),
    questions:
      question === undefined
        ? []
        : [{ ...question, name: response.noEcho ? question.name.toLowerCase() : question.name }],
    answers: cut ? [] : [...(response.answers ?? [])],
    authorities: [...(response.authorities ?? [])],
  });
}

export const a = (name: string, data: string, ttl = 60): Answer => ({ type: 'A', name, ttl, data });
export const aaaa = (name: string, data: string, ttl = 60): Answer => ({ type: 'AAAA', name, ttl, data });
export const cname = (name: string, data: string, ttl = 60): Answer => ({ type: 'CNAME', name, ttl, data });
export const soa = (name: string, minimum = 30): Answer => ({
  type: 'SOA',
  name,
  ttl: minimum,
  data: { mname: `ns.${name}`, rname: `admin.${name}`, serial: 1, refresh: 1, retry: 1, expire: 1, minimum },
});
