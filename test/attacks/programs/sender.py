"""Sends what it is given, from inside a container, with no more power than Docker gives: frames by packet sockets (also with a virtio header, and by a
ring), packets by raw sockets, and what ordinary sockets make of their options. argv: the folder for its socket, and its name there.
A line of JSON { ops, then } is answered by one of { errors, talks }. What is in NAME.first is done before anything else, at every start."""
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys
import time

FOLDER, NAME = sys.argv[1:3]
SOL_PACKET, VNET_HDR, TX_RING, VERSION, BYPASS = 263, 15, 13, 10, 20
RING_FRAME, RING_FRAMES = 4096, 64
IPV6_HDRINCL = 36
CONNECT_S = 0.4
TALK_S = 4


class Ring:
    """PACKET_TX_RING: frames that the kernel reads from memory that it shares with the sender (TPACKET_V2)."""

    def __init__(self, dev):
        self.s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.s.setsockopt(SOL_PACKET, VERSION, 1)
        size = RING_FRAME * RING_FRAMES
        self.s.setsockopt(SOL_PACKET, TX_RING, struct.pack('IIII', size, 1, RING_FRAME, RING_FRAMES))
        self.s.bind((dev, 3))
        self.memory = mmap.mmap(self.s.fileno(), size)
        self.at = 0

    def send(self, frame):
        base = self.at * RING_FRAME
        header = 32  # struct tpacket2_hdr, and TPACKET_ALIGN: data begins behind it, without sockaddr_ll
        if len(frame) > RING_FRAME - header:
            raise OSError(errno.EMSGSIZE, 'a frame of the ring')
        self.memory[base + header:base + header + len(frame)] = frame
        struct.pack_into('III', self.memory, base, 1, len(frame), len(frame))
        self.at = (self.at + 1) % RING_FRAMES
        self.s.send(b'')


class Xdp:
    """AF_XDP in copy mode: one frame after the other, past the queueing discipline and every hook of its own namespace."""

    def __init__(self, dev):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        self.s = socket.socket(44, socket.SOCK_RAW, 0)
        self.area = libc.mmap(None, 64 * 4096, 3, 0x22, -1, 0)
        self.s.setsockopt(283, 4, struct.pack('QQIIII', self.area, 64 * 4096, 4096, 0, 0, 0))
        for ring in (5, 6, 2 + 1):
            self.s.setsockopt(283, ring, struct.pack('I', 64))
        offsets = self.s.getsockopt(283, 1, 128)
        self.tx = struct.unpack_from('QQQQ', offsets, 32)
        self.done = struct.unpack_from('QQQQ', offsets, 96)
        self.memory = mmap.mmap(self.s.fileno(), self.tx[2] + 64 * 16, offset=0x80000000)
        self.completed = mmap.mmap(self.s.fileno(), self.done[2] + 64 * 8, offset=0x180000000)
        address = struct.pack('HHIII', 44, 2, socket.if_nametoindex(dev), 0, 0)
        pointer = ctypes.create_string_buffer(address)
        if libc.bind(self.s.fileno(), pointer, len(address)) < 0:
            raise OSError(ctypes.get_errno(), 'bind')
        self.n = 0

    def send(self, frame):
        if len(frame) > 4096:
            raise OSError(errno.EMSGSIZE, 'a chunk of AF_XDP')
        slot = self.n % 64
        ctypes.memmove(self.area + slot * 4096, frame, len(frame))
        struct.pack_into('QII', self.memory, self.tx[2] + slot * 16, slot * 4096, len(frame), 0)
        self.n += 1
        struct.pack_into('I', self.memory, self.tx[0], self.n)
        self.s.send(b'', socket.MSG_DONTWAIT)
        completed = struct.unpack_from('I', self.completed, self.done[0])[0]
        struct.pack_into('I', self.completed, self.done[1], completed)


made = {}


def packet_socket(dev, way):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.bind((dev, 3))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    if way == 'direct':
        s.setsockopt(SOL_PACKET, BYPASS, 1)
    if way == 'virtio':
        s.setsockopt(SOL_PACKET, VNET_HDR, 1)
    return s


def sender_of(dev, way):
    # of the device that has the name now: it may have been removed and made again
    key = (dev, socket.if_nametoindex(dev), way)
    if key not in made:
        made[key] = Ring(dev) if way == 'ring' else Xdp(dev) if way == 'xdp' else packet_socket(dev, way)
    return made[key]


def send_ip(packet):
    is4 = packet[0] >> 4 == 4
    key = 'ip4' if is4 else 'ip6'
    if key not in made:
        made[key] = socket.socket(socket.AF_INET if is4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    to = (socket.inet_ntop(socket.AF_INET, packet[16:20]), 0) if is4 else (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0)
    made[key].sendto(packet, socket.MSG_DONTWAIT, to)


waiting = []  # TCP sockets that connect, with what they are to send


def send_socket(op):
    family = socket.AF_INET6 if ':' in op['to'][0] or op.get('six') else socket.AF_INET
    s = socket.socket(family, op['type'], op['protocol'])
    s.setblocking(False)
    try:
        for level, name, value in op['options']:
            s.setsockopt(level, name, bytes.fromhex(value))
        if op.get('bind'):
            s.bind((op['bind'], op.get('port', 0)))
        data = bytes.fromhex(op['data'])
        to = tuple(op['to'])
        if op['type'] == socket.SOCK_STREAM:
            if op.get('fast'):
                s.sendto(data, socket.MSG_FASTOPEN, to)
            else:
                code = s.connect_ex(to)
                if code not in (0, errno.EINPROGRESS):
                    raise OSError(code, 'connect')
            waiting.append((s, b'' if op.get('fast') else data))
            return
        if op.get('connect'):
            s.connect(tuple(op['connect']))
            s.send(data)
        controls = [(level, name, bytes.fromhex(value)) for level, name, value in op.get('controls', [])]
        s.sendmsg([data], controls, socket.MSG_DONTWAIT, to)
    except BlockingIOError:
        waiting.append((s, b''))
        return
    except OSError:
        s.close()
        raise
    s.close()


def finish():
    """Sends on the connections that come about in time, and ends all."""
    end = time.monotonic() + CONNECT_S
    left = {s: data for s, data in waiting}
    waiting.clear()
    while left and time.monotonic() < end:
        _, ready, _ = select.select([], list(left), [], max(0, end - time.monotonic()))
        for s in ready:
            try:
                if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    s.send(left[s])
            except OSError:
                pass  # refused, as most are to be: what arrived is seen where it arrives
            del left[s]
            s.close()
    for s in left:
        s.close()


talking = []


def talk(op):
    """Opens connections, and tells what the next segment of each has to have: frames may then continue them."""
    for s in talking:
        s.close()
    talking.clear()
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.bind((op['dev'], 3))
    tap.setblocking(False)
    opening = {}
    for to in op['to']:
        s = socket.socket(socket.AF_INET6 if ':' in to[0] else socket.AF_INET, socket.SOCK_STREAM)
        s.setblocking(False)
        s.connect_ex(tuple(to))
        # a port of a client may be that of several connections, of the other family or to another server
        opening[socket.inet_pton(s.family, to[0]), to[1], s.getsockname()[1]] = [s, to, None]
    end = time.monotonic() + TALK_S
    while any(o[2] is None for o in opening.values()) and time.monotonic() < end:
        if not select.select([tap], [], [], max(0, end - time.monotonic()))[0]:
            break
        try:
            frame = tap.recv(256)
        except BlockingIOError:
            continue
        at = 14 + (20 if frame[12:14] == b'\x08\x00' else 40)
        if len(frame) < at + 20 or frame[at - 11 if at == 34 else 20] != 6 or frame[at + 13] & 0x12 != 0x12:
            continue
        server = frame[26:30] if at == 34 else frame[22:38]
        found = opening.get((server, *struct.unpack_from('!HH', frame, at)))
        if found:
            seq, ack = struct.unpack_from('!II', frame, at + 4)
            found[2] = [found[0].getsockname()[1], ack, (seq + 1) & 0xffffffff]
    tap.close()
    talking.extend(o[0] for o in opening.values())
    return [o[2] for o in opening.values()]


def do(op):
    kind = op['k']
    if kind == 'frame':
        sender_of(op['dev'], op['way']).send(bytes.fromhex(op['hex']))
    elif kind == 'ip':
        send_ip(bytes.fromhex(op['hex']))
    elif kind == 'socket':
        send_socket(op)


def appear(dev, seconds):
    """Waits for a device that is about to come, and is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                if struct.unpack('16sH', fcntl.ioctl(s, 0x8913, struct.pack('16s16x', dev.encode()))[:18])[1] & 1:
                    return True
            finally:
                s.close()
        except OSError:
            pass  # not yet
    return False


def run(ask):
    if ask.get('appears') and not appear(ask['appears'], 20):
        return {'errors': {'appears': 1}, 'talks': []}
    if 'talk' in ask:
        return {'errors': {}, 'talks': talk(ask['talk'])}
    errors = {}
    for n in range(ask.get('times', 1)):
        if n > 0:
            time.sleep(ask.get('every', 0))
        for op in ask['ops']:
            try:
                do(op)
            except OSError as e:
                key = f"{op['k']} {op.get('way', '')} {errno.errorcode.get(e.errno, e.errno)}"
                errors[key] = errors.get(key, 0) + 1
        finish()
    return {'errors': errors, 'talks': []}


first = os.path.join(FOLDER, f'{NAME}.first')
began = {'errors': {}, 'talks': []}
if os.path.exists(first):
    with open(first) as f:
        began = run(json.load(f))
path = os.path.join(FOLDER, f'{NAME}.sock')
if os.path.exists(path):
    os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
while True:
    peer, _ = server.accept()
    text = b''
    while not text.endswith(b'\n'):
        part = peer.recv(1 << 20)
        if not part:
            break
        text += part
    if text:
        ask = json.loads(text)
        answer = began if ask.get('began') else run(ask)
        peer.sendall(json.dumps(answer).encode() + b'\n')
    peer.close()
