/** Listed addresses, tried by a container that nothing else is denied to: by forged sources and errors of ICMP. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Container } from '../lab/container.js';
import { waitFor } from '../lab/process.js';
import { datagramFlow, endForeign, prepareForeign, sendError } from './foreign-errors.js';
import { ends, raw, sendFrames, sendPackets, where } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, type How, seen } from './technique.js';
import { type Ends, ether, etherTypeOf, ip, text6, address as toBytes, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const FORGED = 'the source of what a container sends is looked up in threats, too';
const NEIGHBOURS = 'an enforced container hears neighbours only from addresses that are bound to a container';
const TRANSLATED = 'a listed IPv4 address is listed behind NAT64 prefixes, too';
const TUNNEL = 'where there are threat feeds, 6to4, Teredo and ISATAP addresses are closed';
const FIRST = 'threats come before ICMP errors are let through';
const UDP = 17;
/** Every attempt's own target is listed. */
const LISTED = ['93.184.100.0/22', '2600:9000:a77a::/48'];
const PORT = 7000;
const ECHO = `for (const type of ['udp4', 'udp6']) {
  const s = require('dgram').createSocket({ type, ipv6Only: type === 'udp6' });
  s.on('message', (m, { port, address }) => s.send(m, port, address, () => undefined));
  s.bind(${PORT}, () => console.log('listening'));
}`;
const answering = new Map<'observed' | 'enforced' | 'published', Container>();

/** A datagram from an address that is not the attacker's; whoever answers sends its text there. */
const forged = (
  to: (a: Attempt, w: { gateway: string; gatewayMac: string }) => Promise<{ address: string; mac: string }>,
  from: (a: Attempt) => string = (a) => a.target,
): How => ({
  families: BOTH,
  attack: async (a) => {
    const { gateway4, gatewayMac, mac } = await where(a);
    const gateway = a.family === 'v4' ? gateway4 : a.lab.addresses.host6;
    const { address, mac: next } = await to(a, { gateway, gatewayMac });
    const e: Ends = { src: from(a), dst: address };
    const packet = ip(e, UDP, udp(e, 7001, PORT, a.tag));
    await sendFrames(a.attacker, [ether(next, mac, etherTypeOf(packet), packet)]);
    // what answers has done so when it has answered this one
    const other = answering.get('observed');
    if (other === undefined) throw new Error('nobody answers');
    const { ip4, ip6 } = await other.addresses();
    await a.attacker.probe('udp', a.family === 'v4' ? ip4 : ip6, PORT, 'then', '--timeout', 1500);
  },
  reached: (a) => seen(a, { dst: from(a), payloadIncludes: a.tag }),
});
const neighbour = (which: 'observed' | 'enforced') => async (a: Attempt) => {
  const c = answering.get(which);
  if (c === undefined) throw new Error(`no ${which} neighbour`);
  const { ip4, ip6, mac } = await c.addresses();
  return { address: a.family === 'v4' ? ip4 : ip6, mac };
};
const unlisted = (a: Attempt): string =>
  a.family === 'v4'
    ? `93.184.201.${a.side === 'control' ? 1 : 2}`
    : `2600:9000:201::${a.side === 'control' ? 1 : 2}`;

/** A datagram to an IPv6 address that carries a listed IPv4 address. */
const inside = (form: (v4: string, inverted: string) => string): How => {
  const hex = (high: number, low: number): string => `${high.toString(16)}:${low.toString(16)}`;
  const target = (a: Attempt): string => {
    const low = 0x6400 + (a.side === 'control' ? 1 : 2); // 93.184.100.x
    return text6(toBytes(form(hex(0x5db8, low), hex(0xffff - 0x5db8, 0xffff - low))));
  };
  return {
    families: ['v6'],
    attack: async (a) => {
      const e = await ends(a, target(a));
      await sendPackets(a, [ip(e, UDP, udp(e, 7001, PORT, a.tag))]);
    },
    reached: (a) => seen(a, { dst: target(a), payloadIncludes: a.tag }),
  };
};

endForeign();
let feed = '';
attackSuite(
  'threats',
  {
    attacker: raw({ labels: { 'drawbridge.allow': '' } }),
    mode: 'observe',
    control: 'before',
    drawbridge: () => ({
      config: {
        networks: { nat64: ['2001:db8:164::/96'] },
        threats: {
          feeds: [{ name: 'listed', url: `file://${feed}`, every: '1d', guards: { minEntries: 0 } }],
        },
      },
    }),
    prepare: async (lab) => {
      feed = join(lab.dir, 'listed.txt');
      writeFileSync(feed, `${LISTED.join('\n')}\n`);
      await prepareForeign(lab);
      for (const [name, mode, args] of [
        ['observed', 'observe', []],
        ['enforced', 'enforce', []],
        ['published', 'observe', ['-p', `${PORT}:${PORT}/udp`]],
      ] as const) {
        const labels = { 'drawbridge.mode': mode };
        const c = await lab.start({ name, labels, args, cmd: ['node', '-e', ECHO] });
        answering.set(name, c);
        await waitFor(`${name} to answer`, async () => (await c.logs()).match(/listening/g)?.length === 2);
      }
    },
    enforced: async (_, drawbridge) => {
      const r = await drawbridge.cli(['feeds', 'sync', 'listed']);
      if (r.code !== 0) throw new Error(`feeds sync: ${r.stdout}${r.stderr}`);
    },
  },
  [
    {
      id: 'threat-icmp-error',
      title: "an observed container's error to a listed address about a flow of another container",
      stoppedBy: FIRST,
      families: BOTH,
      attack: async (a) => sendError(a, await datagramFlow(a)),
      reached: (a) => seen(a, { dst: a.target, payloadIncludes: a.tag }),
    },
    {
      id: 'threat-forged-to-host',
      title:
        'a datagram to a published port of the host, in the name of a listed address that hears the answer',
      stoppedBy: FORGED,
      ...forged(async (_, w) => ({ address: w.gateway, mac: w.gatewayMac })),
    },
    {
      id: 'threat-forged-to-observed',
      title: 'the same to an observed neighbour',
      stoppedBy: FORGED,
      ...forged(neighbour('observed')),
    },
    {
      id: 'threat-forged-to-enforced',
      title: 'the same to an enforced neighbour',
      stoppedBy: FORGED,
      ...forged(neighbour('enforced')),
    },
    {
      id: 'forged-to-enforced',
      title:
        'an answer of an enforced neighbour to any address, which an observed container forges as its source',
      stoppedBy: NEIGHBOURS,
      ...forged(neighbour('enforced'), unlisted),
    },
    {
      id: 'threat-nat64',
      title: 'a listed IPv4 address behind a NAT64 translator',
      stoppedBy: TRANSLATED,
      ...inside((v4) => `64:ff9b::${v4}`),
    },
    {
      id: 'threat-nat64-configured',
      title: 'the same behind a prefix that the configuration names',
      stoppedBy: TRANSLATED,
      ...inside((v4) => `2001:db8:164::${v4}`),
    },
    {
      id: 'threat-6to4',
      title: 'a listed IPv4 address behind 6to4',
      stoppedBy: TUNNEL,
      ...inside((v4) => `2002:${v4}::1`),
    },
    {
      id: 'threat-teredo',
      title: 'a listed IPv4 address as Teredo server and client',
      stoppedBy: TUNNEL,
      ...inside((v4, inverted) => `2001:0:${v4}:0:1234:${inverted}`),
    },
    {
      id: 'threat-isatap',
      title: 'a listed IPv4 address in an ISATAP address',
      stoppedBy: TUNNEL,
      ...inside((v4) => `2600:9000:1547::5efe:${v4}`),
    },
  ],
);
