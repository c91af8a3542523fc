/** Stub resolvers at chosen source addresses: one address stands for one container. */
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { type Answer, type DecodedPacket, decode, encode, type RecordType } from 'dns-packet';

export interface Reply extends DecodedPacket {
  readonly rcode: string;
  readonly bytes: number;
  readonly raw: Buffer;
}
export interface AskOptions {
  readonly type?: RecordType;
  readonly from?: string;
  readonly tcp?: boolean;
  /** EDNS size; 0: no EDNS. */
  readonly edns?: number;
  readonly id?: number;
  readonly ms?: number;
}

export function queryFor(name: string, o: AskOptions = {}): Buffer {
  const opt = {
    type: 'OPT',
    name: '.',
    udpPayloadSize: o.edns ?? 1232,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  } as const satisfies Omit<Answer & { type: 'OPT' }, 'options'> & { options: [] };
  return encode({
    type: 'query',
    id: o.id ?? Math.floor(Math.random() * 65_536),
    flags: 0x0100,
    questions: [{ type: o.type ?? 'A', name }],
    additionals: o.edns === 0 ? [] : [{ ...opt, options: [] }],
  });
}

function read(raw: Buffer): Reply {
  return Object.assign(decode(raw) as DecodedPacket & { rcode: string }, { bytes: raw.length, raw });
}

/** Rejects when nothing comes within `ms`. */
export function ask(
  server: { address: string; port: number },
  name: string,
  o: AskOptions = {},
): Promise<Reply> {
  const query = queryFor(name, o);
  return (o.tcp ? overTcp(server, query, o) : overUdp(server, query, o)).then(read);
}

export function overUdp(
  server: { address: string; port: number },
  query: Buffer,
  o: AskOptions,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(server.address.includes(':') ? 'udp6' : 'udp4');
    const timer = setTimeout(() => {
      socket.close();
      reject(new Error('no answer'));
    }, o.ms ?? 8000);
    socket.on('message', (m) => {
      clearTimeout(timer);
      socket.close();
      resolve(m);
    });
    socket.bind(0, o.from, () => socket.send(query, server.port, server.address));
  });
}

function overTcp(server: { address: string; port: number }, query: Buffer, o: AskOptions): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: server.address,
      port: server.port,
      ...(o.from === undefined ? {} : { localAddress: o.from }),
    });
    let got = Buffer.alloc(0);
    socket.setTimeout(o.ms ?? 8000, () => socket.destroy(new Error('no answer')));
    socket.on('connect', () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(query.length);
      socket.write(Buffer.concat([length, query]));
    });
    socket.on('error', reject);
    socket.on('data', (chunk) => {
      got = Buffer.concat([got, chunk]);
      if (got.length < 2 || got.length < 2 + got.readUInt16BE(0)) return;
      socket.destroy();
      resolve(got.subarray(2));
    });
    socket.on('close', () => reject(new Error('closed without an answer')));
  });
}

export const addresses = (reply: Reply): string[] =>
  (reply.answers ?? []).flatMap((r) => (r.type === 'A' || r.type === 'AAAA' ? [r.data] : [])).sort();
