// Sends any Ethernet frame (AF_PACKET, which NET_RAW permits) for whoever asks on /asks/ID.sock, the first twelve digits of the container's id: a line of JSON
// { frames: [hex, …], device?, way? } is answered with { errors: [errno, …] }. way: "direct" goes around the queueing
// discipline; "ip": the frames are IP packets, sent by a raw socket; "bound": datagrams of a UDP socket that is bound to the
// device, to { to: { address: hex, port } }; "free": datagrams of a UDP socket from any IPv6 address { from: hex } (IPV6_FREEBIND). Plain JavaScript: it runs inside containers, alone.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { hostname } from 'node:os';
import koffi from 'koffi';

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 3;
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, uint)');
const send = libc.func('long send(int, const void *, size_t, int)');

const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const option = libc.func('int setsockopt(int, int, int, const void *, uint)');

const AF_INET = 2;
const AF_INET6 = 10;
const IPPROTO_RAW = 255;
const QDISC_BYPASS = [263, 20];
const BIND_TO_DEVICE = [1, 25];
const FREEBIND = [41, 78];
const ONE = Buffer.from([1, 0, 0, 0]);

function target(address, port) {
  const out = Buffer.alloc(address.length === 4 ? 16 : 28);
  out.writeUInt16LE(address.length === 4 ? AF_INET : AF_INET6, 0);
  out.writeUInt16BE(port, 2);
  address.copy(out, address.length === 4 ? 4 : 8);
  return out;
}
function sendIp(packet) {
  const isV4 = packet[0] >> 4 === 4;
  const fd = socket(isV4 ? AF_INET : AF_INET6, SOCK_RAW, IPPROTO_RAW);
  const to = target(isV4 ? packet.subarray(16, 20) : packet.subarray(24, 40), 0);
  return sendto(fd, packet, packet.length, 0, to, to.length) === packet.length ? [] : [koffi.errno()];
}
function sendBound(data, device, { address, port }) {
  const to = target(Buffer.from(address, 'hex'), port);
  const fd = socket(to.readUInt16LE(0), 2, 0);
  const name = Buffer.from(`${device}\0`);
  if (option(fd, ...BIND_TO_DEVICE, name, name.length) < 0) return [koffi.errno()];
  return sendto(fd, data, data.length, 0, to, to.length) === data.length ? [] : [koffi.errno()];
}

function sendFree(data, from, { address, port }) {
  const [own, to] = [target(Buffer.from(from, 'hex'), 0), target(Buffer.from(address, 'hex'), port)];
  const fd = socket(AF_INET6, 2, 0);
  if (option(fd, ...FREEBIND, ONE, ONE.length) < 0 || bind(fd, own, own.length) < 0) return [koffi.errno()];
  return sendto(fd, data, data.length, 0, to, to.length) === data.length ? [] : [koffi.errno()];
}

function open(device, way) {
  const fd = socket(AF_PACKET, SOCK_RAW, 0);
  const address = Buffer.alloc(20); // struct sockaddr_ll
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8')), 4);
  if (fd < 0 || bind(fd, address, address.length) < 0)
    throw new Error(`no packet socket: errno ${koffi.errno()}`);
  if (way === 'direct') option(fd, ...QDISC_BYPASS, ONE, ONE.length);
  return fd;
}
const sockets = new Map();
function sendAll({ frames, device = 'eth0', way = '', to, from }) {
  if (way === 'ip') return frames.flatMap((hex) => sendIp(Buffer.from(hex, 'hex')));
  if (way === 'bound') return frames.flatMap((hex) => sendBound(Buffer.from(hex, 'hex'), device, to));
  if (way === 'free') return frames.flatMap((hex) => sendFree(Buffer.from(hex, 'hex'), from, to));
  const key = `${device} ${way}`;
  if (!sockets.has(key)) sockets.set(key, open(device, way));
  return frames.flatMap((hex) => {
    const frame = Buffer.from(hex, 'hex');
    return send(sockets.get(key), frame, frame.length, 0) === frame.length ? [] : [koffi.errno()];
  });
}

createServer((asker) => {
  let text = '';
  asker.on('error', () => asker.destroy());
  asker.on('data', (d) => {
    text += d;
    if (text.endsWith('\n')) asker.end(`${JSON.stringify({ errors: sendAll(JSON.parse(text)) })}\n`);
  });
}).listen(`/asks/${ownId()}.sock`);

/** In the host's network the host's name is the container's; Docker's mount of /etc/hostname tells the id there. */
function ownId() {
  const [, id] =
    /\/containers\/([0-9a-f]{12})[0-9a-f]{52}\/hostname /.exec(
      readFileSync('/proc/self/mountinfo', 'utf8'),
    ) ?? [];
  return id ?? hostname();
}
