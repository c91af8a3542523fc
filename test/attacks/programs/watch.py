"""What arrives anywhere in a lab: at the wire of its internet, at the host's sockets, at containers. argv: JSON { net, host, markers, places, ports }.
A line { sync: TEXT } is answered, when the wire has shown a packet that the host sent after it, by the lines [place, hex, about] of all that has arrived,
and a line of the number of those that were lost. { tap: NAME, ns, dev } and { untap: NAME } begin and end a place."""
import ctypes
import json
import os
import select
import socket
import struct
import sys

ASK = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
SOL_PACKET, AUXDATA, STATISTICS = 263, 8, 6
PROTOCOLS = (1, 2, 4, 6, 17, 41, 47, 50, 58, 89, 132, 136, 253)
sockets = {}  # name -> [(socket, kind)]
own = os.open('/proc/self/ns/net', os.O_RDONLY)


def inside(path, make):
    fd = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(fd, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), path)
        return make()
    finally:
        os.close(fd)
        libc.setns(own, 0x40000000)


def tap(dev):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
    s.setsockopt(SOL_PACKET, AUXDATA, 1)
    s.bind((dev, 3))
    s.setblocking(False)
    return [(s, 'frame')]


def services():
    made = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in PROTOCOLS:
            s = socket.socket(family, socket.SOCK_RAW, protocol)
            s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
            if family == socket.AF_INET6:
                s.setsockopt(41, 49, 1)  # IPV6_RECVPKTINFO
            made.append((s, 'raw4' if family == socket.AF_INET else f'raw6 {protocol}'))
        for port in ASK['ports']:
            u = socket.socket(family, socket.SOCK_DGRAM)
            t = socket.socket(family, socket.SOCK_STREAM)
            for s in (u, t):
                if family == socket.AF_INET6:
                    s.setsockopt(41, 26, 1)  # IPV6_V6ONLY
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(('::' if family == socket.AF_INET6 else '0.0.0.0', port))
            t.listen(256)
            made += [(u, f'udp {port}'), (t, f'listen {port}')]
    for protocol in (1, 2, 17):
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        s.setsockopt(0, 5, 1)  # IP_ROUTER_ALERT
        made.append((s, 'alert4'))
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.setsockopt(41, 22, struct.pack('i', 0))  # IPV6_ROUTER_ALERT
    s.setsockopt(41, 30, 1)  # IPV6_ROUTER_ALERT_ISOLATE: not what passes other namespaces, as those of another lab
    made.append((s, 'alert6'))
    for s, _ in made:
        s.setblocking(False)
    return made


def marker():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return s


sockets['net'] = inside(ASK['net'], lambda: tap('eth0'))
sockets['host'] = inside(ASK['host'], services)
mark = inside(ASK['host'], marker)
talks = []


def about(kind, data, parts, address):
    if kind == 'frame':
        tag = ''
        for level, name, value in parts:
            if level == SOL_PACKET and name == AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack('IIIHHHH', value[:20])
                if status & 0x10:
                    tag = f'{tpid:04x} {tci & 0xfff}'
        return tag
    return f'{kind} {address[0]}' + ''.join(
        f' {socket.inet_ntop(socket.AF_INET6, value[:16])}' for level, name, value in parts if level == 41 and name == 50)


def read(name, out, seen):
    for s, kind in list(sockets[name]):
        for _ in range(200000):
            try:
                if kind.startswith('listen'):
                    peer, address = s.accept()
                    peer.setblocking(False)
                    talks.append((peer, f'tcp {kind[7:]} {address[0]}'))
                    continue
                data, parts, _, address = s.recvmsg(65536, 256)
            except BlockingIOError:
                break
            if kind == 'frame' and address[2] == 4:
                continue  # what its own side sends
            if seen is not None and seen in data:
                return True
            out.append([name, data.hex(), about(kind, data, parts, address)])
    if name == 'host':
        for talk in list(talks):
            peer, what = talk
            try:
                data = peer.recv(65536)
                if data:
                    out.append(['host', data.hex(), what])
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass  # reset: it has ended
            peer.close()
            talks.remove(talk)
    return False


def sync(text):
    out, seen = [], False
    wanted = text.encode()
    for _ in range(50):
        mark.sendto(wanted, tuple(ASK['marker']))
        select.select([sockets['net'][0][0]], [], [], 0.2)
        if read('net', out, wanted):
            seen = True
            break
    if not seen:
        raise TimeoutError('the marker is not at the wire')
    lost = 0
    for name in list(sockets):
        try:
            read(name, out, None)
        except OSError as e:
            print(f'{name}: {e}', file=sys.stderr)  # its device has gone
    for name, all_ in sockets.items():
        for s, kind in all_:
            if kind == 'frame':
                lost += struct.unpack('II', s.getsockopt(SOL_PACKET, STATISTICS, 8))[1]
    for one in out:
        print(json.dumps(one))
    print(json.dumps(lost), flush=True)


print('ready', flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    if 'sync' in ask:
        sync(ask['sync'])
    elif 'tap' in ask:
        sockets[ask['tap']] = inside(ask['ns'], lambda: tap(ask['dev']))
        print('null', flush=True)
    elif 'untap' in ask:
        for s, _ in sockets.pop(ask['untap'], []):
            s.close()
        print('null', flush=True)
