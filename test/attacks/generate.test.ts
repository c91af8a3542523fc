/**
 * Frames, packets and sockets, evaluated at every receiver from the bytes that arrive (test/attacks/generate/): first techniques with a name, then what a
 * seed makes, from every place and at every moment. The seed and the count of rounds are fixed, so that a failure is the code's; SEED and GENERATE set others, and
 * `npm run attacks:generate` runs for as long as one likes.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cryptoFrame, helloMessage, initialPacket, serverNames } from '../pure/connections/hello-maker.js';
import {
  ALERT6,
  both,
  isSummed,
  lateHeader,
  type Op,
  PLACES,
  PORT,
  question,
  SITE,
  tagOf,
} from './generate/build.js';
import { numberIn } from './generate/judge.js';
import { type Named, Salvo, type Sent } from './generate/named.js';
import { Generator, type Report, tell } from './generate/run.js';
import { World } from './generate/world.js';
import { announce, type Family, report } from './report.js';
import { type Bytes, bytes, type Ends, ether, etherTypeOf, fragment, ip, tcp, u8, udp } from './wire.js';

const SEED = Number(process.env.SEED ?? 1);
/** Each moment comes once. */
const ROUNDS = Number(process.env.GENERATE ?? 30);
/** Frames, connections, the first instruction, the host's network, an observed container. */
const CONTROL = [0, 1, 2, 3, 4];
const SLOWEST_MS = 600_000;

const BOTH: readonly Family[] = ['v4', 'v6'];
const [TCP, UDP] = [6, 17];
const ETHER = 14;
const HEAD = { v4: 20, v6: 40 } as const;
const PROTOCOL = { v4: 9, v6: 6 } as const;
const portOf = (n: number): number => 20_000 + (n % 40_000);
const to = ({ family, scene }: Sent, dst: Readonly<Record<Family, string>>): Ends => ({
  src: both(scene.own)[family],
  dst: dst[family],
});
const framed = ({ scene }: Sent, packet: Bytes, mac = scene.gateway.mac): Bytes =>
  ether(mac, scene.own.mac, etherTypeOf(packet), packet);
const asFrame = ({ scene }: Sent, frame: Bytes, header?: Bytes): Op => ({
  k: 'frame',
  dev: scene.device,
  way: header ? 'virtio' : 'packet',
  hex: bytes(header ?? '', frame).toString('hex'),
});

const LATE = 'programs of BPF before all rules of IP drop a checksum that is not where TCP and UDP have it';
const AS_READ = `${LATE}; what is read for its name goes on as it was read`;
const NO_GROUP =
  'frames of a veth to reserved groups are dropped before conntrack, and on the way into the host';
const NO_OPTIONS = 'packets of enforced veths with IP options or extension headers are dropped at the bridge';
const GROUPS = ['02', '03', '0e', '0f'].map((end) => `frame frame=group-${end}`);

/** Its first byte, and the one before it, may be written over. */
const connectionId = (n: number): Bytes => bytes(u8(0), tagOf(n));
/** An Initial packet with the name of the permitted site, and with the number in its connection ID. */
const initial = (n: number): Bytes =>
  initialPacket({
    dcid: connectionId(n),
    frames: cryptoFrame(0, helloMessage(serverNames(SITE.permitted))),
  });
const short = (n: number): Bytes => bytes(u8(0x41), connectionId(n), '.'.repeat(40));
const ofQuic = (sent: Sent, data: Bytes): Bytes => {
  const e = to(sent, PLACES.shared);
  return framed(sent, ip(e, UDP, udp(e, portOf(sent.n), PORT.tls, data)));
};
const RESOLVER = { v4: '169.254.53.53', v6: 'fd64:7262:7264::53' } as const;
const RESOLVER_PORT = 5359;
const FLOOD = 300;

const NAMED: readonly Named[] = [
  {
    id: 'late-destination',
    title:
      'a checksum that the kernel writes into the destination address, behind all rules (PACKET_VNET_HDR)',
    families: BOTH,
    stoppedBy: LATE,
    shots: ['frame late=destination', 'frame late=destination-high'],
  },
  {
    id: 'late-destination-fragments',
    title: 'the same in fragments, which the host puts together',
    families: BOTH,
    stoppedBy: LATE,
    shots: ['frame late=destination parts=two'],
  },
  {
    id: 'late-port',
    title: 'the same into the destination port',
    families: BOTH,
    stoppedBy: LATE,
    shots: ['frame late=port', 'frame late=port protocol=tcp'],
  },
  {
    id: 'late-host',
    title: 'the same into the Host of a request: the server reads another site than the check',
    families: BOTH,
    stoppedBy: AS_READ,
    shots: ['talk says=late-name'],
  },
  {
    id: 'late-name',
    title: 'the same into the server name of a hello of TLS',
    families: BOTH,
    stoppedBy: AS_READ,
    shots: ['talk says=late-name server=tls'],
  },
  {
    id: 'late-quic',
    title:
      'the same into the first byte of a packet of QUIC with a short header, which needs no check (RFC 9000 17.3)',
    families: BOTH,
    stoppedBy: AS_READ,
    before: (sent) => [initial(sent.n), short(sent.n)].map((data) => asFrame(sent, ofQuic(sent, data))),
    make: (sent) => {
      const content = ETHER + HEAD[sent.family] + 8;
      return [asFrame(sent, ofQuic(sent, short(sent.n)), lateHeader(content, 0))];
    },
    reached: ({ n, family }, arrivals) =>
      arrivals.some(({ at, bytes: b }) => {
        const upper = ETHER + HEAD[family];
        const isQuestion =
          b.length > upper + 8 &&
          b.readUInt16BE(upper + 2) === PORT.tls &&
          b[ETHER + PROTOCOL[family]] === UDP;
        const isSame = [initial(n), short(n)].some((data) => data.equals(b.subarray(upper + 8)));
        return at === 'net' && numberIn(b) === n && isQuestion && !isSame;
      }),
  },
  {
    id: 'late-reset',
    title:
      'a RST with a wrong checksum, which conntrack does not check then: it forgets a connection that goes on',
    families: BOTH,
    stoppedBy: LATE,
    opens: { ...PLACES.permitted, port: PORT.web },
    make: (sent) => {
      const [port = 0, seq = 0, ack = 0] = sent.opened ?? [];
      const e = to(sent, PLACES.permitted);
      const segment = tcp(e, port, PORT.web, { flags: 'R', seq, ack }, tagOf(sent.n).padEnd(16, '.'));
      segment.writeUInt16BE(segment.readUInt16BE(16) ^ 0x5a5a, 16);
      const upper = ETHER + HEAD[sent.family];
      return [asFrame(sent, framed(sent, ip(e, TCP, segment)), lateHeader(upper, segment.length - 2))];
    },
    reached: ({ n, family }, arrivals) =>
      arrivals.some(({ at, bytes: b }) => {
        const packet = b.subarray(ETHER);
        const isReset = ((packet[HEAD[family] + 13] ?? 0) & 4) !== 0;
        return at === 'net' && numberIn(b) === n && isReset && !isSummed(packet);
      }),
  },
  {
    id: 'group-service',
    title:
      'a service of the host, by frames to groups that a port gives to the host itself (01-80-C2-00-00-0x)',
    families: BOTH,
    stoppedBy: NO_GROUP,
    shots: GROUPS.map((group) => `${group} to=host`),
    at: 'host udp',
  },
  {
    id: 'group-echo',
    title: 'echo requests in such frames, whose replies the host sends to an address of the internet',
    families: BOTH,
    stoppedBy: NO_GROUP,
    shots: GROUPS.map((group) => `${group} to=host protocol=echo from=internet`),
  },
  {
    id: 'group-resolver',
    title: "a question in such a frame, to Drawbridge's resolver and from the address of another container",
    families: BOTH,
    stoppedBy: NO_GROUP,
    make: (sent) => {
      const e = { src: both(sent.scene.friend)[sent.family], dst: RESOLVER[sent.family] };
      const data = question(`${tagOf(sent.n)}.${SITE.friends}`);
      return [
        asFrame(
          sent,
          framed(sent, ip(e, UDP, udp(e, portOf(sent.n), RESOLVER_PORT, data)), '01:80:c2:00:00:0e'),
        ),
      ];
    },
    reached: async (sent, arrivals) =>
      arrivals.some(({ at, bytes: b }) => at === 'host' && numberIn(b) === sent.n) ||
      (await Salvo.asked(sent)),
  },
  {
    id: 'group-router',
    title:
      'a router advertisement in such a frame: the default route of the host leads through the container',
    families: ['v6'],
    stoppedBy: NO_GROUP,
    shots: ['frame frame=group-0e protocol=router to=everyone from=link-local'],
    reached: async ({ world }) => (await routesBy(world)).length > 0,
  },
  {
    id: 'tag-redis',
    title:
      'an observed container reaches the Redis of Drawbridge in frames with a tag without a VLAN (802.1Q)',
    families: BOTH,
    stoppedBy: 'such tags are dropped at the bridge, whatever the mode',
    place: 'observed',
    shots: ['8100 0', '88a8 0', '8100 0 0'].map(
      (tag) => `frame tag=${tag.replaceAll(' ', '+')} to=redis frame=redis protocol=tcp`,
    ),
    at: 'redis',
  },
  {
    id: 'alert-option',
    title: 'a router alert option: a program of the host hears the packet before it is evaluated',
    families: ['v4'],
    stoppedBy: NO_OPTIONS,
    shots: ['frame options=router-alert to=denied'],
    at: 'host alert',
  },
  {
    id: 'alert-hop-by-hop',
    title: 'the same by hop-by-hop options',
    families: ['v6'],
    stoppedBy: NO_OPTIONS,
    shots: ['frame options=alert to=denied'],
    at: 'host alert',
  },
  {
    id: 'alert-fragments',
    title: 'the same in each fragment of a datagram',
    families: BOTH,
    stoppedBy: NO_OPTIONS,
    make: (sent) => {
      const e = to(sent, PLACES.denied);
      const data = udp(e, portOf(sent.n), PORT.denied, tagOf(sent.n).padEnd(64, '.'));
      const alerting = (from: number, end: number): Bytes => {
        const part = fragment(e, UDP, data, from, end, sent.n & 0xffff);
        if (sent.family === 'v6') return ip(e, 0, bytes(ALERT6(44), part.subarray(HEAD.v6)));
        const field = part.readUInt16BE(6);
        return ip(e, UDP, part.subarray(HEAD.v4), { options: u8(148, 4, 0, 0), id: sent.n, fragment: field });
      };
      return [alerting(0, 32), alerting(32, data.length)].map((p) => asFrame(sent, framed(sent, p)));
    },
    at: 'host alert',
  },
  {
    id: 'fragments-waiting',
    title: `${FLOOD} first fragments before their rest, which wait in the memory that all containers share`,
    families: BOTH,
    stoppedBy: 'fragments of each enforced veth are bounded (docs/limits.md)',
    make: (sent) => {
      const e = to(sent, PLACES.permitted);
      const data = udp(e, portOf(sent.n), PORT.permitted, tagOf(sent.n).padEnd(80, '.'));
      const all = (from: number, end: number): Op[] =>
        Array.from({ length: FLOOD }, (_, i) =>
          asFrame(sent, framed(sent, fragment(e, UDP, data, from, end, 1_000 + i))),
        );
      return [...all(0, 48), ...all(48, data.length)];
    },
    reached: ({ n }, arrivals) =>
      arrivals.filter(({ at, bytes: b }) => at === 'net' && numberIn(b) === n).length > FLOOD / 2,
  },
];
for (const t of NAMED) announce(t);

interface Route {
  readonly dev: string;
  readonly protocol: string;
}
/** Default routes that a router has advertised. */
async function routesBy({ lab }: World): Promise<readonly Route[]> {
  const { stdout } = await lab.inHost(['ip', '-j', '-6', 'route', 'show', 'default'], { check: true });
  return (JSON.parse(stdout) as Route[]).filter(({ protocol }) => protocol === 'ra');
}
/** In the control it is an address of the host, as it is with Drawbridge. */
async function hasResolver({ lab }: World, verb: 'add' | 'del'): Promise<void> {
  for (const address of [`${RESOLVER.v4}/32`, `${RESOLVER.v6}/128`])
    await lab.inHost(['ip', 'address', verb, address, 'dev', 'lo'], { check: true });
}

let world: World;
beforeAll(async () => {
  world = await World.make();
});
afterAll(() => world?.[Symbol.asyncDispose]());

const generate = (options: Partial<ConstructorParameters<typeof Generator>[1]>): Promise<Report> =>
  new Generator(world, { seed: SEED, seconds: 0, ...options }).run();

describe('control, without Drawbridge', () => {
  describe('named', () => {
    let salvo: Salvo;
    beforeAll(async () => {
      await hasResolver(world, 'add');
      salvo = new Salvo(world, NAMED);
      await salvo.send();
    });
    afterAll(async () => {
      await hasResolver(world, 'del');
      for (const { dev } of await routesBy(world))
        await world.lab.inHost(['ip', '-6', 'route', 'del', 'default', 'dev', dev, 'proto', 'ra']);
    });
    for (const t of NAMED)
      for (const family of t.families)
        it(`${t.id} ${family}: ${t.title}`, async () => {
          const reached = await salvo.arrives(t, family);
          const isOut = reached.every((r) => r);
          report(t, family, 'control', isOut);
          expect(isOut, `${reached.join(' ')}\n${salvo.seen(t, family)}`).toBe(true);
        });
  });

  it('generated ones arrive at every receiver', { timeout: SLOWEST_MS }, async () => {
    const { hits } = await generate({ only: CONTROL, explains: false });
    expect(Object.keys(hits)).toEqual(
      expect.arrayContaining(['net', 'host', 'friend', 'enemy', 'redis', 'server']),
    );
  });
});

describe('held', () => {
  beforeAll(async () => {
    await world.start();
    await world.enforce();
    await world.resolve(['bridge']);
  });

  describe('named', () => {
    let salvo: Salvo;
    beforeAll(async () => {
      salvo = new Salvo(world, NAMED);
      await salvo.send();
    });
    for (const t of NAMED)
      for (const family of t.families)
        it(`${t.id} ${family}: ${t.title}`, async () => {
          const reached = await salvo.reached(t, family);
          const isOut = reached.some((r) => r);
          report(t, family, 'held', isOut);
          expect(isOut, `${reached.join(' ')}\n${salvo.seen(t, family)}`).toBe(false);
        });
  });

  it(`generated, seed ${SEED}: nothing arrives anywhere that no entry permits`, {
    timeout: SLOWEST_MS,
  }, async () => {
    const { found, permitted } = await generate({ rounds: ROUNDS, stopAtFirst: true });
    expect(found.map((f) => tell(f, SEED))).toEqual([]);
    // a path that is dead would show nothing
    for (const place of ['bridge', 'second', 'joined', 'observed', 'macvlan', 'host'])
      expect([place, permitted[place] ?? 0]).toEqual([place, expect.toSatisfy((n: number) => n > 0)]);
  });
});
