// Sends Ethernet frames (hex, arguments after the device) through an AF_XDP socket in copy mode, which NET_RAW permits.
// Prints { errors: [errno, …] }. Plain JavaScript: it runs inside containers, alone.
import { readFileSync } from 'node:fs';
import koffi from 'koffi';

const AF_XDP = 44;
const SOL_XDP = 283;
const OPTION = { offsets: 1, txRing: 3, umem: 4, fillRing: 5, completionRing: 6 };
const TX_RING_OFFSET = 0x80000000;
const COPY = 2;
const RING = 4;
const CHUNK = 4096;
const UMEM = RING * CHUNK;
const READ_WRITE = 3;
const SHARED = 1;
const PRIVATE_ANONYMOUS = 0x22;
const DONT_WAIT = 0x40;

const libc = koffi.load(null);
const socket = libc.func('int socket(int, int, int)');
const set = libc.func('int setsockopt(int, int, int, const void *, uint)');
const get = libc.func('int getsockopt(int, int, int, void *, void *)');
const mmap = libc.func('void *mmap(void *, size_t, int, int, int, long)');
const bind = libc.func('int bind(int, const void *, uint)');
const sendto = libc.func('long sendto(int, void *, size_t, int, void *, uint)');

const [device, ...frames] = process.argv.slice(2);
const must = (what, code) => {
  if (code < 0) throw new Error(`${what}: errno ${koffi.errno()}`);
  return code;
};
const u32 = (n) => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(n);
  return b;
};
const view = (pointer, size) => Buffer.from(koffi.view(pointer, size));

const fd = must('socket', socket(AF_XDP, 3, 0));
const memory = mmap(null, UMEM, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
const umem = Buffer.alloc(32); // struct xdp_umem_reg
umem.writeBigUInt64LE(koffi.address(memory), 0);
umem.writeBigUInt64LE(BigInt(UMEM), 8);
umem.writeUInt32LE(CHUNK, 16);
must('umem', set(fd, SOL_XDP, OPTION.umem, umem, umem.length));
for (const ring of [OPTION.fillRing, OPTION.completionRing, OPTION.txRing])
  must('ring', set(fd, SOL_XDP, ring, u32(RING), 4));
const offsets = Buffer.alloc(128); // struct xdp_mmap_offsets: rx, tx, fill, completion
must('offsets', get(fd, SOL_XDP, OPTION.offsets, offsets, u32(128)));
const [producer, , descriptors] = [32, 40, 48].map((at) => Number(offsets.readBigUInt64LE(at)));
const ring = view(
  mmap(null, descriptors + RING * 16, READ_WRITE, SHARED, fd, TX_RING_OFFSET),
  descriptors + RING * 16,
);
const address = Buffer.alloc(16); // struct sockaddr_xdp
address.writeUInt16LE(AF_XDP, 0);
address.writeUInt16LE(COPY, 2);
address.writeUInt32LE(Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8')), 4);
// another socket's queue of this device is given back a little after its end
const EBUSY = 16;
let bound = bind(fd, address, address.length);
for (let n = 0; n < 100 && bound < 0 && koffi.errno() === EBUSY; n++) {
  await new Promise((done) => setTimeout(done, 50));
  bound = bind(fd, address, address.length);
}
must('bind', bound);

const chunks = view(memory, UMEM);
frames.slice(0, RING).forEach((hex, n) => {
  const frame = Buffer.from(hex, 'hex');
  frame.copy(chunks, n * CHUNK);
  ring.writeBigUInt64LE(BigInt(n * CHUNK), descriptors + n * 16);
  ring.writeUInt32LE(frame.length, descriptors + n * 16 + 8);
});
ring.writeUInt32LE(frames.length, producer);
const errors = sendto(fd, null, 0, DONT_WAIT, null, 0) < 0 ? [koffi.errno()] : [];
console.log(JSON.stringify({ errors }));
