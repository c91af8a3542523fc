// One UDP datagram over IPv4 as a frame of its own (AF_PACKET), to addresses that the own kernel would keep to itself.
// Runs in a container's network namespace. usage: frame.mjs JSON, with { device, srcMac, dstMac, src, dst, port, text }
import koffi from 'koffi';

const { device, srcMac, dstMac, src, dst, port, text } = JSON.parse(process.argv[2]);
const [AF_PACKET, SOCK_RAW, UDP, IPV4] = [17, 3, 17, 0x0800];
const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const sendto = libc.func('long sendto(int, const void *, size_t, int, const void *, uint)');
const indexOf = libc.func('uint if_nametoindex(const char *)');
const mac = (m) => Buffer.from(m.replaceAll(':', ''), 'hex');
const four = (a) => Buffer.from(a.split('.').map(Number));
const u16 = (n) => Buffer.from([n >> 8, n & 255]);

function sum(bytes) {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += bytes.readUInt16BE(i);
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
  return ~total & 0xffff;
}
const data = Buffer.from(text);
const udp = Buffer.concat([u16(4000), u16(port), u16(8 + data.length), u16(0), data]); // no checksum: allowed in IPv4
const ip = Buffer.concat([
  Buffer.from([0x45, 0]),
  u16(20 + udp.length),
  Buffer.from([0, 1, 0, 0, 64, UDP, 0, 0]),
  four(src),
  four(dst),
]);
ip.writeUInt16BE(sum(ip), 10);
const frame = Buffer.concat([mac(dstMac), mac(srcMac), u16(IPV4), ip, udp]);

const to = Buffer.alloc(20); // struct sockaddr_ll
to.writeUInt16LE(AF_PACKET, 0);
to.writeInt32LE(indexOf(device), 4); // not from /sys, which shows the namespace that it was mounted in
to[11] = 6;
mac(dstMac).copy(to, 12);
const fd = socket(AF_PACKET, SOCK_RAW, 0);
const sent = Number(sendto(fd, frame, frame.length, 0, to, to.length));
process.stdout.write(`${JSON.stringify({ sent: sent === frame.length })}\n`);
