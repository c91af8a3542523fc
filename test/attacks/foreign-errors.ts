/** ICMP errors that quote a flow which is not the attacker's: conntrack calls each of them RELATED. */
import { afterAll } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import type { Result } from '../lab/process.js';
import { Wire } from './neighbour.js';
import { ends, sendPackets, where } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, type How, seen } from './technique.js';
import { type Bytes, type Ends, ICMP, icmp, ip, tcp, u32, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const UDP = 17;
const TCP = 6;
const PUBLISHED = 7100;
const CLOSED = 7199;
const UNREACHABLE = { v4: [3, 3], v6: [1, 4] } as const;
/** Nothing is enforced for it; it publishes a port and has flows of its own. */
let other: Container;
let wire: Wire | undefined;
export const endForeign = (): void => afterAll(() => wire?.stop());
export async function prepareForeign(lab: Lab): Promise<void> {
  other = await lab.start({
    name: 'other',
    labels: { 'drawbridge.mode': 'off' },
    args: ['-p', `${PUBLISHED}:${PUBLISHED}/udp`],
  });
  wire = await Wire.tap(lab, other);
}

/** The packet that an error quotes, as it arrived at the end that the error would come from. */
interface Quoted extends Ends {
  readonly proto: typeof UDP | typeof TCP;
  readonly sport: number;
  readonly dport: number;
}
/** Ports that only this attempt uses. */
const portOf = (a: Attempt): number =>
  20_000 + [...a.tag].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 20_000, 0);
const addressOf = async (a: Attempt): Promise<string> => {
  const { ip4, ip6 } = await other.addresses();
  return a.family === 'v4' ? ip4 : ip6;
};
const hostOf = (a: Attempt): string => (a.family === 'v4' ? a.lab.addresses.host4 : a.lab.addresses.host6);

/** One datagram from the target itself to a port of the host. */
async function knock(a: Attempt, port: number): Promise<void> {
  if (a.family === 'v6')
    await a.lab.inNet(['ip', 'address', 'add', `${a.target}/128`, 'dev', 'lo', 'nodad'], { check: true });
  const program = `const s = require('dgram').createSocket('udp${a.family === 'v4' ? 4 : 6}');
    s.bind(${portOf(a)}, '${a.target}', () => s.send('hello', ${port}, '${hostOf(a)}', () => s.close()));`;
  await a.lab.inNet([process.execPath, '-e', program], { check: true });
}
export const publishedFlow = async (a: Attempt): Promise<Quoted> => {
  await knock(a, PUBLISHED);
  return { src: a.target, dst: await addressOf(a), proto: UDP, sport: portOf(a), dport: PUBLISHED };
};
export const closedPort = async (a: Attempt): Promise<Quoted> => {
  await knock(a, CLOSED);
  return { src: a.target, dst: hostOf(a), proto: UDP, sport: portOf(a), dport: CLOSED };
};
export const datagramFlow = async (a: Attempt): Promise<Quoted> => {
  const dport = portOf(a);
  await other.probe('udp', a.target, 7300, 'hello', '--local-port', dport);
  return { src: a.target, dst: await addressOf(a), proto: UDP, sport: 7300, dport };
};
export const closedConnection = async (a: Attempt): Promise<Quoted> => {
  const dport = portOf(a);
  await other.probe('tcp', a.target, 80, '--local-port', dport);
  return { src: a.target, dst: await addressOf(a), proto: TCP, sport: 80, dport };
};

const quote = (q: Quoted, data: string): Bytes =>
  q.proto === UDP
    ? ip(q, UDP, udp(q, q.sport, q.dport, data))
    : ip(q, TCP, tcp(q, q.sport, q.dport, { flags: 'A' }, data));
/** From the attacker's own address to where the quoted packet came from. */
export async function sendError(
  a: Attempt,
  q: Quoted,
  data = a.tag,
  [type, code]: readonly [number, number] = UNREACHABLE[a.family],
): Promise<void> {
  const e = await ends(a, q.src);
  await sendPackets(a, [ip(e, ICMP[a.family], icmp(e, type, code, u32(0), quote(q, data)))]);
}

/** To the internet, by the tag in it. */
export const toInternet = (flow: (a: Attempt) => Promise<Quoted>): How => ({
  families: BOTH,
  attack: async (a) => sendError(a, await flow(a), a.tag.padEnd(400, '.')),
  reached: (a) => seen(a, { dst: a.target, payloadIncludes: a.tag }),
});

/** To a neighbour, about a flow that it has with the host. */
export const toOther: How = {
  families: BOTH,
  attack: async (a) => {
    const gateway = a.family === 'v4' ? (await where(a)).gateway4 : hostOf(a);
    const sport = portOf(a);
    await other.probe('udp', gateway, CLOSED, 'hello', '--local-port', sport, '--timeout', 500);
    await sendError(a, { src: await addressOf(a), dst: gateway, proto: UDP, sport, dport: CLOSED });
  },
  reached: async (a) => (await wire?.saw((f) => f.includes(a.tag))) ?? false,
};

/** To the host, whose own socket hears that the target refused it. */
export const toHost = (): How => {
  const heard = new Map<string, Promise<Result>>();
  return {
    families: BOTH,
    attack: async (a) => {
      const sport = portOf(a);
      const program = `const s = require('dgram').createSocket('udp${a.family === 'v4' ? 4 : 6}');
        s.on('error', (e) => { console.log(e.code); process.exit(); });
        s.bind(${sport}, '${hostOf(a)}', () => s.connect(7301, '${a.target}', () => s.send('hello')));
        setTimeout(() => process.exit(), 4000);`;
      heard.set(a.tag, a.lab.inHost([process.execPath, '-e', program], { check: true }));
      for (let i = 0; i < 8; i++) {
        await sendError(a, { src: hostOf(a), dst: a.target, proto: UDP, sport, dport: 7301 });
        await new Promise((done) => setTimeout(done, 250));
      }
    },
    reached: async (a) => (await heard.get(a.tag))?.stdout.includes('ECONNREFUSED') ?? false,
  };
};
