/** A veth on Docker's bridge that belongs to no container, and that speaks from the address of one. */
import type { Lab } from '../lab/lab.js';

export interface Riding {
  readonly family: 'v4' | 'v6';
  /** The container's address and port, whose flow with `to` is installed. */
  readonly src: string;
  readonly sport: number;
  readonly to: string;
  readonly dport: number;
  readonly text: string;
}
const GATEWAY = { v4: undefined, v6: 'fd00:db:1::1' } as const;
let count = 0;

/** Sends datagrams for some seconds, in which the veth is classified. */
export async function ride(lab: Lab, gateway4: string, r: Riding): Promise<void> {
  const name = `rider${count++}`;
  const gateway = GATEWAY[r.family] ?? gateway4;
  const [ip, bits] = r.family === 'v4' ? ['ip', 16] : ['ip -6', 64];
  const send = `const s = require('dgram').createSocket('udp${r.family === 'v4' ? 4 : 6}');
    let n = 0;
    s.on('error', () => undefined);
    s.bind(${r.sport}, '${r.src}', () => {
      const timer = setInterval(() => {
        s.send('${r.text}', ${r.dport}, '${r.to}', () => undefined);
        if (++n === 40) { clearInterval(timer); s.close(); }
      }, 100);
    });`;
  const script = [
    'set -e',
    'unshare -n sleep 30 & pid=$!',
    'trap "kill $pid" EXIT',
    'own=$(readlink /proc/self/ns/net)',
    'for i in $(seq 100); do [ "$(readlink /proc/$pid/ns/net)" != "$own" ] && break; sleep 0.05; done',
    `ip link add ${name} type veth peer name eth0 netns $pid`,
    `ip link set ${name} master docker0 up`,
    'in="nsenter --net=/proc/$pid/ns/net --"',
    '$in ip link set lo up; $in ip link set eth0 up',
    `$in ${ip} address add ${r.src}/${bits} dev eth0${r.family === 'v6' ? ' nodad' : ''}`,
    `$in ${ip} route add default via ${gateway}`,
    `$in "$1" -e "$2" || true`,
  ].join('\n');
  await lab.inHost(['bash', '-c', script, 'ride', process.execPath, send], { check: true });
}
