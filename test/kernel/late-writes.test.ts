/** A datagram out of a file: its sender writes to the file when the rules have read it, and before it leaves. What was read is what leaves. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Dataplane } from '../../src/kernel/dataplane.js';
import { compile } from '../../src/ruleset/compile.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { configure, type Host, makeHost } from './frames.js';

const BRIDGE = '02:42:00:00:00:01';
const NEXT_HOP = '02:42:00:00:99:09';
const OWN = { bridge: 'br0', mac: '02:42:ac:12:00:02', ip4: '172.18.0.2' } as const;
const OUTSIDE = '198.51.100.9';

/** The uplink gets a discipline that lets nothing through until the sender has written to its file. */
const PROGRAM = `
import ctypes, json, mmap, os, socket, subprocess, sys, time
ask = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def enter(path):
    fd = os.open(path, os.O_RDONLY)
    if libc.setns(fd, 0x40000000) != 0: raise OSError(ctypes.get_errno(), path)
    os.close(fd)
def by_host(*words): return subprocess.run(['nsenter', '--net=' + ask['host'], *words], check=True, capture_output=True).stdout
def discipline(verb, rate, burst): by_host('tc', 'qdisc', verb, 'dev', 'uplink', 'root', 'tbf', 'rate', rate, 'burst', burst, 'limit', '100000')
def waiting(): return json.loads(by_host('tc', '-s', '-j', 'qdisc', 'show', 'dev', 'uplink'))[0]['qlen']
def until(is_so):
    end = time.monotonic() + 20
    while not is_so():
        if time.monotonic() > end: raise TimeoutError()
        time.sleep(0.01)
enter(ask['host'])
filler = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
filler.bind(('uplink', 0))
enter(ask['far'])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('uplink-far', 3))
wire.settimeout(20)
def arrived():
    while True:
        frame, address = wire.recvfrom(65536)
        if address[2] != 4 and (frame[12:14] == b'\\x88\\xb6' or frame[12:14] == b'\\x08\\x00' and frame[23] == 17): return frame
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((ask['own'], ask['port']))
udp.connect((ask['to'], 443))
udp.send(b'asks')
f = arrived()
answer = f[6:12] + f[:6] + f[12:26] + f[30:34] + f[26:30] + f[36:38] + f[34:36] + f[38:40] + b'\\0\\0' + f[42:]
wire.send(answer)
until(lambda: b'[ASSURED]' in (udp.send(b'asks') and by_host('conntrack', '-L', '-p', 'udp', '--orig-port-src', str(ask['port']))) or wire.send(answer) == 0)
if ask['mark']: by_host('conntrack', '-U', '-p', 'udp', '--orig-port-src', str(ask['port']), '--mark', str(ask['mark']))
full = b'\\xff' * 6 + b'\\x02' + b'\\0' * 5 + b'\\x88\\xb6' + b'.' * 1480
discipline('replace', '80bit', '1600')
for _ in range(2): filler.send(full)
before = waiting()
file = os.memfd_create('datagram')
datagram = b'\\x41' + ask['text'].encode()
os.write(file, datagram)
memory = mmap.mmap(file, len(datagram))
out, into = os.pipe()
os.splice(file, into, len(datagram), 0)
os.splice(out, udp.fileno(), len(datagram))
udp.send(b'\\x41the next one')
until(lambda: waiting() >= before + 2)
memory[0:1] = b'\\xc3'
discipline('change', '10gbit', '100000')
filler.send(full[:-4] + b'last')
found = []
while True:
    f = arrived()
    if f.endswith(b'last'): break
    if f[12:14] == b'\\x08\\x00' and f[42:] != b'asks': found.append(f[42:].decode('latin1'))
by_host('tc', 'qdisc', 'del', 'dev', 'uplink', 'root')
print(json.dumps(found))
`;

let host: Host;
beforeAll(async () => {
  host = makeHost({
    bridges: { br0: { mac: BRIDGE, addresses: ['172.18.0.1/16'] } },
    veths: { own: OWN, uplink: { mac: NEXT_HOP, addresses: ['198.51.100.1/24'] } },
    marker: { by: 'own', at: ['br0'] },
  });
  configure(host.ns, [
    `neigh add ${OUTSIDE} lladdr ${NEXT_HOP} dev uplink nud permanent`,
    `neigh add ${OWN.ip4} lladdr ${OWN.mac} dev br0 nud permanent`,
  ]);
  configure(host.far, [
    `address add ${OWN.ip4}/16 dev own-far`,
    `neigh add 172.18.0.1 lladdr ${BRIDGE} dev own-far nud permanent`,
    'route add default via 172.18.0.1',
  ]);
  const veths = [{ ...OWN, ifindex: host.indexOf('own') }];
  const desired = compile({
    ...input(member(2, `${OUTSIDE}:443/udp`, 'enforce', veths)),
    bridges: [{ name: 'br0', mac: BRIDGE, veths: [host.indexOf('own')], subnets: ['172.18.0.0/16'] }],
  });
  await new Dataplane(host.ns.exec, shape, host.indexOf).apply(desired);
});
afterAll(() => host[Symbol.dispose]());

/** What leaves on a flow in this state of the check of names. */
function leaves(port: number, mark: number): unknown {
  const ask = {
    host: host.ns.path,
    far: host.far.path,
    own: OWN.ip4,
    to: OUTSIDE,
    port,
    mark,
    text: 'a short header',
  };
  return JSON.parse(
    execFileSync('python3', ['-c', PROGRAM, JSON.stringify(ask)], { timeout: 60_000 }).toString(),
  );
}
it('control: of a flow that is not checked, another first byte leaves', () => {
  expect(leaves(41_001, 0)).toEqual(['\xc3a short header', 'Athe next one']);
});
it('of a flow of QUIC, the first byte leaves that was read', () => {
  expect(leaves(41_002, shape.marks.check?.requests ?? 0)).toEqual(['Aa short header', 'Athe next one']);
});
