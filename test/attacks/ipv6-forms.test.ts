/**
 * Every IPv6 form of an IPv4 address, and IPv6 space that is nobody's business: with entries that permit the IPv4 address
 * itself, and "any", which stands for public addresses only.
 */
import { ends, raw, sendPackets } from './raw.js';
import { type Attempt, attackSuite, type How, PERMITTED, seen } from './technique.js';
import { address, ip, tcp, text6, udp } from './wire.js';

const BY_FAMILY = 'an IPv4 entry permits the IPv4 address and no IPv6 form of it';
const NOT_ANY = '"any" leaves out private space, and every form that has a private IPv4 address inside';
/** Permitted on its every port, as an IPv4 address. */
const FRIEND = '93.184.5.1';
/** What "any" stands for, and "any" does not. */
const SECRET = '10.200.5.1';
const ANY_PORT = 444;

type Form = (v4: readonly number[], n: number) => string;
const hexPair = (a = 0, b = 0): string => (a * 256 + b).toString(16);
const words = (v: readonly number[]): string => `${hexPair(v[0], v[1])}:${hexPair(v[2], v[3])}`;
const inverted = (v: readonly number[]): string => words(v.map((x) => 255 - x));

/** Both sides and kinds send to addresses of their own where the form has room for a number. */
const number = (a: Attempt): number => (a.side === 'control' ? 1 : 2);
const parts = (v4: string): readonly number[] => v4.split('.').map(Number);
const to = (v4: string, form: Form, port: number): How => {
  const target = (a: Attempt): string => text6(address(form(parts(v4), number(a))));
  return {
    families: ['v6'],
    attack: async (a) => {
      const e = await ends(a, target(a));
      await sendPackets(a, [
        ip(e, 17, udp(e, portOf(a), port, a.tag)),
        ip(e, 6, tcp(e, portOf(a), port, { flags: 'S' })),
      ]);
    },
    reached: (a) => seen(a, { dst: target(a), sport: portOf(a) }),
  };
};
const portOf = (a: Attempt): number => 4400 + number(a);
const form = (f: Form) => to(FRIEND, f, 80);
const private6 = (f: Form) => to(SECRET, f, ANY_PORT);

attackSuite(
  'forms of IPv6 addresses',
  {
    attacker: raw({
      labels: {
        'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80, ${FRIEND}, ${FRIEND}/udp, any:${ANY_PORT}/tcp+udp`,
      },
    }),
  },
  [
    {
      id: 'v6-compatible',
      title: '::a.b.c.d of a permitted IPv4 address',
      stoppedBy: BY_FAMILY,
      ...form((v) => `::${words(v)}`),
    },
    {
      id: 'v6-translated',
      title: '::ffff:0:a.b.c.d (SIIT)',
      stoppedBy: BY_FAMILY,
      ...form((v) => `::ffff:0:${words(v)}`),
    },
    {
      id: 'v6-nat64',
      title: '64:ff9b::a.b.c.d (NAT64)',
      stoppedBy: BY_FAMILY,
      ...form((v) => `64:ff9b::${words(v)}`),
    },
    {
      id: 'v6-nat64-local',
      title: '64:ff9b:1::/48 (NAT64 of the site)',
      stoppedBy: BY_FAMILY,
      ...form((v, n) => `64:ff9b:1:${n}::${words(v)}`),
    },
    {
      id: 'v6-6to4',
      title: '2002:a.b.c.d:: (6to4)',
      stoppedBy: BY_FAMILY,
      ...form((v, n) => `2002:${words(v)}::${n}`),
    },
    {
      id: 'v6-teredo',
      title: '2001:0::/32 (Teredo), the address as server and as client',
      stoppedBy: BY_FAMILY,
      ...form((v, n) => `2001:0:${words(v)}:0:${n}:${inverted(v)}`),
    },
    {
      id: 'v6-isatap',
      title: '…:0:5efe:a.b.c.d (ISATAP)',
      stoppedBy: BY_FAMILY,
      ...form((v, n) => `2600:9000:1547:${n}:0:5efe:${words(v)}`),
    },
    {
      id: 'v6-any-compatible',
      title: '"any" and ::10.x',
      stoppedBy: NOT_ANY,
      ...private6((v) => `::${words(v)}`),
    },
    {
      id: 'v6-any-nat64',
      title: '"any" and 64:ff9b::10.x',
      stoppedBy: NOT_ANY,
      ...private6((v) => `64:ff9b::${words(v)}`),
    },
    {
      id: 'v6-any-nat64-local',
      title: '"any" and the site\'s NAT64',
      stoppedBy: NOT_ANY,
      ...private6((v, n) => `64:ff9b:1:${n}::${words(v)}`),
    },
    {
      id: 'v6-any-6to4',
      title: '"any" and 2002:10.x::',
      stoppedBy: NOT_ANY,
      ...private6((v, n) => `2002:${words(v)}::${n}`),
    },
    {
      id: 'v6-any-teredo',
      title: '"any" and Teredo to 10.x',
      stoppedBy: NOT_ANY,
      ...private6((v, n) => `2001:0:${words(v)}:0:${n}:${inverted(v)}`),
    },
    {
      id: 'v6-any-ula',
      title: '"any" and unique local addresses',
      stoppedBy: NOT_ANY,
      ...private6((_, n) => `fdc0:200::${n}`),
    },
    {
      id: 'v6-any-site-local',
      title: '"any" and site-local addresses',
      stoppedBy: NOT_ANY,
      ...private6((_, n) => `fec0:1::${n}`),
    },
    {
      id: 'v6-any-discard',
      title: '"any" and the discard prefix',
      stoppedBy: NOT_ANY,
      ...private6((_, n) => `100::${n}`),
    },
    {
      id: 'v6-mapped-socket',
      title: 'a forbidden IPv4 address through an IPv6 socket (::ffff:a.b.c.d)',
      stoppedBy: 'the packet is IPv4, and is evaluated as IPv4',
      families: ['v4'],
      attack: (a) => a.attacker.probe('udp', `::ffff:${a.target}`, 5000, a.tag, '--timeout', 300),
      reached: (a) => seen(a),
    },
    {
      id: 'v6-beside-v4',
      title: 'the IPv6 address of a host that is permitted by its IPv4 address',
      stoppedBy: BY_FAMILY,
      families: ['v6'],
      attack: (a) => a.attacker.probe('tcp', a.target, 80, '--timeout', 1000),
      reached: (a) => seen(a),
    },
  ],
);
