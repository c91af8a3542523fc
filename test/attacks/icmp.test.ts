/** ICMP as a tunnel: echoes, errors about nothing, and all the types that nobody needs. */

import { waitFor } from '../lab/process.js';
import {
  closedConnection,
  closedPort,
  datagramFlow,
  endForeign,
  prepareForeign,
  publishedFlow,
  toHost,
  toInternet,
  toOther,
} from './foreign-errors.js';
import { ends, toTarget as packetsTo, raw, sendPackets } from './raw.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, type How, PERMITTED, seen } from './technique.js';
import { type Bytes, type Ends, fragments, ICMP, icmp, ip, tcp, u16, u32, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const CHAIN = "the container's chain: echo requests to addresses that an entry names, no other ICMP";
const OF_NO_FLOW = 'an ICMP error passes only about an existing flow, towards the other end of that flow';
const OWN_FLOW = "an ICMP error passes only about a flow that has the container's own address as an end";
const ERROR_BOUND = 'ICMP errors about own flows are bounded: 576 bytes (IPv6: 1280), 50 a second';
const BOUND = 'an echo request of an enforced container carries 128 bytes at most';
/** Both attackers may ask it for an echo. */
const ECHOES = { v4: '93.184.4.1', v6: '2600:9000:4::1' } as const;
const LONG = 200;
const REQUEST = { v4: 8, v6: 128 } as const;

const echoId = (a: Attempt): number => (a.side === 'control' ? 0x5101 : 0x5102);
const echo = (a: Attempt, e: Ends, sequence: number, data: string): Bytes =>
  icmp(e, REQUEST[a.family], 0, u16(echoId(a), sequence), data);
type Make = (e: Ends, a: Attempt) => readonly Bytes[];
const toTarget = (make: Make, families = BOTH): How =>
  packetsTo(families, (e, a) => make(e, a).map((m) => ip(e, ICMP[a.family], m)));
/** Type and code for each family that has them. */
const message = (types: Partial<Record<Family, readonly [number, number?]>>, rest = u32(0)) =>
  toTarget(
    (e, a) => {
      const [type = 0, code = 0] = types[a.family] ?? [];
      return [icmp(e, type, code, rest, a.tag.padEnd(64, '.'))];
    },
    BOTH.filter((f) => types[f] !== undefined),
  );
/** An error that quotes a packet from the target to us, as if we had got it. */
const error = (types: Partial<Record<Family, readonly [number, number?]>>) =>
  toTarget(
    (e, a) => {
      const [type = 0, code = 0] = types[a.family] ?? [];
      const quoted: Ends = { src: e.dst, dst: e.src };
      return [icmp(e, type, code, u32(0), ip(quoted, 17, udp(quoted, 4000, 4001, a.tag.padEnd(64, '.'))))];
    },
    BOTH.filter((f) => types[f] !== undefined),
  );
/** To the address that may be asked for echoes: by its own words only. */
const toEchoes = (make: (a: Attempt, e: Ends) => readonly Bytes[]): How => ({
  families: BOTH,
  attack: async (a) => {
    const e = await ends(a, ECHOES[a.family]);
    await sendPackets(a, make(a, e));
  },
  reached: (a) => seen(a, { payloadIncludes: a.tag }),
});

/** Errors about the attacker's own connection to what it may reach: seen when more than `above` arrive. */
const aboutOwn = (count: number, size: number, above: number): How => ({
  families: BOTH,
  attack: async (a) => {
    const to = PERMITTED[a.family];
    const flow = await a.attacker.probe('tcp', to, PERMITTED.port);
    const e = await ends(a, to);
    const quoted: Ends = { src: to, dst: e.src };
    const data = a.tag.padEnd(size, '.');
    const about = ip(quoted, 6, tcp(quoted, PERMITTED.port, flow.localPort ?? 0, { flags: 'A' }, data));
    const [type, code] = a.family === 'v4' ? [3, 4] : [2, 0];
    const packet = ip(e, ICMP[a.family], icmp(e, type ?? 0, code ?? 0, u32(1280), about));
    await sendPackets(a, Array<Bytes>(count).fill(packet));
  },
  reached: async (a) =>
    (await a.lab.sniffer.count({ direction: 'out', dst: PERMITTED[a.family], payloadIncludes: a.tag })) >
    above,
});

endForeign();
attackSuite(
  'ICMP',
  {
    attacker: raw({
      labels: {
        'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80, ${ECHOES.v4}/icmp, ${ECHOES.v6}/icmp, ${ECHOES.v4}:19/udp, [${ECHOES.v6}]:19/udp`,
      },
    }),
    prepare: prepareForeign,
    enforced: async (lab) => {
      // what is permitted does pass, so that the bound is what holds the rest
      const c = await lab.docker('ps', '-qf', 'name=attacker-held');
      for (const host of Object.values(ECHOES))
        await lab.docker('exec', c, 'ping', '-c', '1', '-W', '5', '-s', '120', host);
      // so do the errors of its kernel: what comes from port 19 goes on after the socket has closed
      for (const [host, proto] of [
        [ECHOES.v4, 'icmp'],
        [ECHOES.v6, 'icmp6'],
      ] as const) {
        await lab.docker('exec', c, 'node', '/probe.cjs', 'udp', host, '19');
        await waitFor(`an ICMP error to ${host}`, async () =>
          (await lab.sniffer.packets({ direction: 'out', dst: host })).some(
            (p) => p.proto === proto && p.payload?.includes('line') === true,
          ),
        );
      }
    },
  },
  [
    {
      id: 'icmp-echo',
      title: 'data in echo requests',
      stoppedBy: CHAIN,
      ...toTarget((e, a) => [echo(a, e, 1, a.tag)]),
    },
    {
      id: 'icmp-echo-reply',
      title: 'data in echo replies without a request',
      stoppedBy: CHAIN,
      ...message({ v4: [0], v6: [129] }, u16(0x4242, 1)),
    },
    {
      id: 'icmp-echo-long',
      title: 'long echo requests to an address that may be asked for echoes',
      stoppedBy: BOUND,
      ...toEchoes((a, e) => [ip(e, ICMP[a.family], echo(a, e, 1, a.tag.padEnd(LONG, '.')))]),
    },
    {
      id: 'icmp-echo-long-later',
      title: 'a short echo request first, long ones behind it',
      stoppedBy: BOUND,
      ...toEchoes((a, e) => [
        ip(e, ICMP[a.family], echo(a, e, 1, 'short')),
        ip(e, ICMP[a.family], echo(a, e, 2, a.tag.padEnd(LONG, '.'))),
      ]),
    },
    {
      id: 'icmp-echo-fragments',
      title: 'a long echo request in short fragments',
      stoppedBy: BOUND,
      ...toEchoes((a, e) => fragments(e, ICMP[a.family], echo(a, e, 1, a.tag.padEnd(LONG, '.')), [64, 128])),
    },
    {
      id: 'icmp-timestamp',
      title: 'timestamp requests and replies',
      stoppedBy: CHAIN,
      ...message({ v4: [13] }),
    },
    { id: 'icmp-information', title: 'information requests', stoppedBy: CHAIN, ...message({ v4: [15] }) },
    { id: 'icmp-mask', title: 'address mask requests', stoppedBy: CHAIN, ...message({ v4: [17] }) },
    {
      id: 'icmp-router',
      title: 'router solicitations and advertisements (RFC 1256)',
      stoppedBy: CHAIN,
      ...message({ v4: [10] }),
    },
    {
      id: 'icmp-advertisement',
      title: 'router advertisements',
      stoppedBy: CHAIN,
      ...message({ v4: [9], v6: [134] }),
    },
    { id: 'icmp-redirect', title: 'redirects', stoppedBy: OF_NO_FLOW, ...error({ v4: [5, 1], v6: [137] }) },
    {
      id: 'icmp-unknown',
      title: 'unassigned ICMP types',
      stoppedBy: CHAIN,
      ...message({ v4: [200], v6: [200] }),
    },
    {
      id: 'icmp-node-information',
      title: 'node information queries (RFC 4620)',
      stoppedBy: CHAIN,
      ...message({ v6: [139] }),
    },
    {
      id: 'icmp-listener',
      title: 'multicast listener reports to one address',
      stoppedBy: CHAIN,
      ...message({ v6: [131] }),
    },
    {
      id: 'icmp-certification',
      title: 'certification path solicitations (RFC 3971), mobile prefix solicitations',
      stoppedBy: CHAIN,
      ...message({ v6: [148] }),
    },
    {
      id: 'nd-routed',
      title: 'neighbour discovery messages with a hop limit below 255, as if routed',
      stoppedBy: CHAIN,
      ...message({ v6: [133] }),
    },
    {
      id: 'icmp-unreachable',
      title: 'data in "unreachable" about a flow that never was',
      stoppedBy: OF_NO_FLOW,
      ...error({ v4: [3, 3], v6: [1, 4] }),
    },
    {
      id: 'icmp-too-big',
      title: 'data in "packet too big"',
      stoppedBy: OF_NO_FLOW,
      ...error({ v4: [3, 4], v6: [2] }),
    },
    {
      id: 'icmp-time-exceeded',
      title: 'data in "time exceeded"',
      stoppedBy: OF_NO_FLOW,
      ...error({ v4: [11], v6: [3] }),
    },
    {
      id: 'icmp-parameter',
      title: 'data in "parameter problem"',
      stoppedBy: OF_NO_FLOW,
      ...error({ v4: [12], v6: [4] }),
    },
    {
      id: 'icmp-live-flow',
      title: 'an error about an existing flow, sent to another address',
      stoppedBy: OF_NO_FLOW,
      families: BOTH,
      attack: async (a) => {
        const flow = await a.attacker.probe('tcp', PERMITTED[a.family], PERMITTED.port);
        const e = await ends(a);
        const quoted: Ends = { src: PERMITTED[a.family], dst: e.src };
        const about = ip(quoted, 6, tcp(quoted, PERMITTED.port, flow.localPort ?? 0, { flags: 'A' }, a.tag));
        const [type, code] = a.family === 'v4' ? [3, 3] : [1, 4];
        await sendPackets(a, [ip(e, ICMP[a.family], icmp(e, type ?? 0, code ?? 0, u32(0), about))]);
      },
      reached: (a) => seen(a),
    },
    {
      id: 'icmp-published-flow',
      title: "an error about a flow to another container's published port",
      stoppedBy: OWN_FLOW,
      ...toInternet(publishedFlow),
    },
    {
      id: 'icmp-closed-port',
      title: 'an error about a datagram to a closed port of the host',
      stoppedBy: OWN_FLOW,
      ...toInternet(closedPort),
    },
    {
      id: 'icmp-foreign-flow',
      title: "an error about another container's datagrams",
      stoppedBy: OWN_FLOW,
      ...toInternet(datagramFlow),
    },
    {
      id: 'icmp-closed-connection',
      title: "an error about another container's connection that has ended",
      stoppedBy: OWN_FLOW,
      ...toInternet(closedConnection),
    },
    {
      id: 'icmp-neighbour-flow',
      title: 'an error to a neighbour about its flow with the host',
      stoppedBy: OWN_FLOW,
      ...toOther,
    },
    {
      id: 'icmp-host-flow',
      title: 'an error to the host about a flow of its own with the internet',
      stoppedBy: OWN_FLOW,
      ...toHost(),
    },
    {
      id: 'icmp-own-flow',
      title: 'a "packet too big" of usual length about an own flow',
      stoppedBy: OWN_FLOW,
      notStopped:
        'it goes to the other end of the flow, which the container speaks to anyway; path MTU discovery needs it',
      ...aboutOwn(1, 200, 0),
    },
    {
      id: 'icmp-own-long',
      title: 'an error about an own flow that carries more than any stack sends',
      stoppedBy: ERROR_BOUND,
      ...aboutOwn(1, 1300, 0),
    },
    {
      id: 'icmp-own-many',
      title: 'errors about an own flow by the hundred',
      stoppedBy: ERROR_BOUND,
      alone: true,
      ...aboutOwn(600, 20, 300),
    },
  ],
);
