/** What a policy permits and what it does not, as pairs: each case is tried by a container of its own. */
import type { ProbeResult } from '../lab/container.js';
import type { PacketFilter } from '../lab/sniffer.js';
import type { Zone } from '../lab/zone.js';

export type Probe = readonly (string | number)[];
/** An attempt that must fail fast, with this code, and leave nothing outside. */
export interface Denied {
  readonly probe: Probe;
  readonly code: string;
  /** Packets that the internet side must never see. */
  readonly out?: PacketFilter;
  /** The name that the authority must never be asked. */
  readonly name?: string;
}
export interface Case {
  readonly what: string;
  /** Labels of the container, or its name where a list claims it. */
  readonly allow?: string;
  readonly lists?: string;
  readonly name?: string;
  readonly yes: readonly Probe[];
  readonly no: readonly Denied[];
}
/** What is only known once the lab stands. */
export interface Inside {
  readonly gateway: string;
  /** A container "db" (service "store") that listens on 5432 and 5433. */
  readonly db: { readonly ip4: string; readonly ip6: string };
  readonly user: boolean;
}

export const ZONE: Zone = {
  'api.pol.test': { A: ['93.184.1.1'] },
  'denied.pol.test': { A: ['93.184.1.2'] },
  'six.pol.test': { AAAA: ['2600:9000:10::1'] },
  'deniedsix.pol.test': { AAAA: ['2600:9000:10::2'] },
  'wild.test': { A: ['93.184.2.1'] },
  '*.wild.test': { A: ['93.184.2.2'] },
  'both.test': { A: ['93.184.3.1'] },
  '*.both.test': { A: ['93.184.3.2'] },
  'notboth.test': { A: ['93.184.3.3'] },
  'db.corp.test': { A: ['10.200.0.9'] },
  'rebind.pol.test': { A: ['10.200.0.10'], AAAA: ['fdc0:200::10'] },
  'meta.pol.test': { A: ['169.254.169.254'] },
  'flag.pol.test': { A: ['10.200.0.11'] },
  'cover.pol.test': { A: ['10.200.0.12'] },
  'udp.pol.test': { A: ['93.184.4.1'] },
  'direct.pol.test': { A: ['93.184.4.2'] },
  'listed.pol.test': { A: ['93.184.5.1'] },
  'nested.pol.test': { A: ['93.184.5.2'] },
  'base.pol.test': { A: ['93.184.5.3'] },
  'claimed.pol.test': { A: ['93.184.5.4'] },
  'other.pol.test': { A: ['93.184.5.8'] },
  'another.pol.test': { A: ['93.184.5.9'] },
};
export const ZONES = { 'corp.test': { upstreams: ['10.200.0.53'], private: true } };
export const LISTS = {
  'svc.yaml': 'description: names\nallow: [listed.pol.test, "list:inner"]\n',
  'inner.yml': 'allow:\n  - { to: nested.pol.test, ports: 8000, comment: within the list }\n',
  'everyone.yaml': 'allow: [base.pol.test]\n',
  'claims.yaml': 'match: { name: "claimed-*" }\nallow: [claimed.pol.test]\n',
};

/** errno of the client, or the answer's code when DNS itself was asked. */
export const outcome = (r: ProbeResult): string => r.code ?? (r.rcode === undefined ? 'OK' : r.rcode);

const web = (host: string, port = 80): Probe => ['http', `http://${host}:${port}/`];
const tcp = (host: string, port: number): Probe => ['tcp', host, port];
const refused = (host: string, port: number): Denied => ({
  probe: tcp(host, port),
  code: 'ECONNREFUSED',
  out: { proto: 'tcp', dst: host, dport: port },
});
const unknown = (name: string, at: string): Denied => ({
  probe: web(name),
  code: 'ENOTFOUND',
  name,
  out: { dst: at },
});
/** What Linux makes of "administratively prohibited" (net/ipv4/icmp.c, net/ipv6/icmp.c). */
const prohibited = (host: string, port: number): Denied => ({
  probe: ['udp', host, port],
  code: host.includes(':') ? 'EACCES' : 'EHOSTUNREACH',
  out: { dst: host, dport: port },
});

export const names: readonly Case[] = [
  {
    what: 'a name, on its ports only',
    allow: 'api.pol.test',
    yes: [web('api.pol.test'), ['http', 'https://api.pol.test/']],
    no: [
      unknown('denied.pol.test', '93.184.1.2'),
      { ...refused('api.pol.test', 8080), out: { dst: '93.184.1.1', dport: 8080 } },
      refused('93.184.1.3', 80),
    ],
  },
  {
    what: 'a name that has IPv6 only',
    allow: 'six.pol.test',
    yes: [web('six.pol.test')],
    no: [unknown('deniedsix.pol.test', '2600:9000:10::2'), refused('2600:9000:10::3', 80)],
  },
  {
    what: '*.x is everything below x',
    allow: '*.wild.test',
    yes: [web('a.wild.test'), web('b.a.wild.test')],
    no: [unknown('wild.test', '93.184.2.1')],
  },
  {
    what: '.x is x and everything below',
    allow: '.both.test',
    yes: [web('both.test'), web('a.both.test')],
    no: [unknown('notboth.test', '93.184.3.3')],
  },
  {
    what: 'a name of a private zone, asked of its own resolver',
    allow: 'db.corp.test:8000',
    yes: [web('db.corp.test', 8000)],
    no: [refused('10.200.0.1', 8000)],
  },
  {
    what: 'private answers to public names are refused',
    allow: 'rebind.pol.test, meta.pol.test',
    yes: [],
    no: [
      { probe: web('rebind.pol.test'), code: 'ENOTFOUND', out: { dst: ['10.200.0.10', 'fdc0:200::10'] } },
      { probe: web('meta.pol.test'), code: 'ENOTFOUND', out: { dst: '169.254.169.254' } },
    ],
  },
  { what: 'the flag private', allow: 'flag.pol.test private', yes: [web('flag.pol.test')], no: [] },
  {
    what: 'a private answer that an address entry covers',
    allow: 'cover.pol.test, 10.200.0.12:80',
    yes: [web('cover.pol.test')],
    no: [],
  },
  {
    what: 'a name with a udp port',
    allow: 'udp.pol.test:123/udp',
    yes: [['udp', 'udp.pol.test', 123]],
    no: [
      { ...prohibited('udp.pol.test', 124), out: { dst: '93.184.4.1', dport: 124 } },
      { probe: tcp('udp.pol.test', 123), code: 'ECONNREFUSED', out: { dst: '93.184.4.1', proto: 'tcp' } },
    ],
  },
];

export const addresses: readonly Case[] = [
  {
    what: 'a network with a port',
    allow: '93.184.20.0/24:8000',
    yes: [tcp('93.184.20.5', 8000)],
    no: [refused('93.184.20.5', 8080), refused('93.184.21.5', 8000)],
  },
  {
    what: 'a range of addresses and of ports',
    allow: '93.184.22.5-93.184.22.9:8000-8100',
    yes: [tcp('93.184.22.9', 8100), tcp('93.184.22.5', 8000)],
    no: [refused('93.184.22.10', 8100), refused('93.184.22.9', 7999), refused('93.184.22.4', 8000)],
  },
  {
    what: 'IPv6 networks and addresses',
    allow: '[2600:9000:20::/48]:443, 2600:9000:21::7',
    yes: [tcp('2600:9000:20::5', 443), tcp('2600:9000:21::7', 9999), ['udp', '2600:9000:21::7', 9999]],
    no: [
      refused('2600:9000:20::5', 444),
      refused('2600:9000:21::8', 443),
      prohibited('2600:9000:21::8', 999),
    ],
  },
  {
    what: 'any:443 is public space only',
    allow: 'any:443',
    yes: [tcp('93.184.23.1', 443), tcp('2600:9000:22::1', 443)],
    no: [
      refused('93.184.23.1', 80),
      refused('10.200.1.1', 443),
      refused('169.254.169.254', 443),
      refused('fdc0:200::1', 443),
    ],
  },
  {
    what: 'an address with a udp port',
    allow: '93.184.24.1:5000/udp',
    yes: [['udp', '93.184.24.1', 5000]],
    no: [prohibited('93.184.24.1', 5001), refused('93.184.24.1', 5000)],
  },
  {
    what: 'an address with neither ports nor protocol',
    allow: '93.184.25.1',
    yes: [tcp('93.184.25.1', 9998), ['udp', '93.184.25.1', 9998]],
    no: [refused('93.184.25.2', 9998)],
  },
  {
    what: 'a resolver of its own with dns=direct',
    allow: '8.8.8.8:53/tcp+udp dns=direct',
    yes: [
      ['dns', '8.8.8.8', 'denied.pol.test', 'A'],
      ['dns', '8.8.8.8', 'denied.pol.test', 'A', 'tcp'],
    ],
    no: [{ probe: ['dns', '8.8.4.4', 'direct.pol.test', 'A'], code: 'NXDOMAIN', name: 'direct.pol.test' }],
  },
];

export const lists: readonly Case[] = [
  {
    what: 'a list of the folder, and the list inside it',
    lists: 'svc',
    yes: [web('listed.pol.test'), web('nested.pol.test', 8000)],
    no: [unknown('other.pol.test', '93.184.5.8')],
  },
  { what: 'list: within the label', allow: 'list:svc', yes: [web('listed.pol.test')], no: [] },
  { what: 'the baseline', allow: '93.184.26.1:80', yes: [web('base.pol.test')], no: [] },
  {
    what: 'a list that claims the container',
    name: 'claimed-one',
    yes: [web('claimed.pol.test'), web('base.pol.test')],
    no: [unknown('another.pol.test', '93.184.5.9'), refused('93.184.5.7', 80)],
  },
];

/** Destinations inside the host: no packet of theirs goes out, so the client's code is the evidence. */
export const insideCases = (w: Inside): readonly Case[] => [
  {
    what: 'host: the host, on that port only',
    allow: 'host:9125/udp, host:9126',
    yes: [
      ['udp', w.gateway, 9125],
      ['tcp', '192.0.2.2', 9126],
    ],
    no: [
      { probe: tcp(w.gateway, 9127), code: 'ECONNREFUSED' },
      { probe: tcp('192.0.2.2', 9127), code: 'ECONNREFUSED' },
      { probe: tcp('2001:db8:fff0::2', 9127), code: 'ECONNREFUSED' },
    ],
  },
  {
    what: 'any: is not the host',
    allow: 'any:9127',
    yes: [],
    no: [{ probe: tcp('192.0.2.2', 9127), code: 'ECONNREFUSED' }],
  },
  {
    what: 'container: by its name',
    allow: 'container:db:5432',
    yes: [tcp(w.db.ip4, 5432), tcp(w.db.ip6, 5432), ...(w.user ? [tcp('db', 5432)] : [])],
    no: [
      { probe: tcp(w.db.ip4, 5433), code: 'ECONNREFUSED' },
      { probe: tcp(w.db.ip6, 5433), code: 'ECONNREFUSED' },
    ],
  },
  {
    what: 'container: by its compose service',
    allow: 'container:store:5433',
    yes: [tcp(w.db.ip4, 5433)],
    no: [{ probe: tcp(w.db.ip4, 5432), code: 'ECONNREFUSED' }],
  },
];
