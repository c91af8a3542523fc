/** HOST (with the Docker engine) and NET ("the internet"): two namespaces, one veth pair, no other link. */
import { namespaceOf, type RunOptions, run } from './process.js';

/** Addresses of the lab; every lab has the same, each inside its own namespaces. */
export const ADDRESSES = {
  host4: '192.0.2.2',
  host6: '2001:db8:fff0::2',
  gateway4: '192.0.2.1',
  gateway6: '2001:db8:fff0::1',
  hostMac: '02:db:00:00:00:02',
  netMac: '02:db:00:00:00:01',
  /** Where the HOST's resolver listens in `dns: 'loopback'`. Not 127.0.0.53: Docker would look for systemd-resolved's file. */
  stub: '127.0.0.153',
  /** Each has a socket of its own, so that the query log tells which was asked. Any other address answers DNS too. */
  authority4: ['198.51.100.53', '198.51.100.54', '203.0.113.53', '8.8.8.8', '8.8.4.4', '10.200.0.53'],
  authority6: ['2001:db8:53::53', '2001:db8:53::54', '2001:4860:4860::8888', '2001:4860:4860::8844'],
} as const;

/** Connections to these addresses, on the ports of HTTP and TLS, are kept as bytes. */
export const SINK = { prefix4: '93.184.66.', prefix6: '2600:9000:66::' } as const;

/** Ranges of which NET answers every address. */
const PUBLIC4 = [
  '93.184.0.0/16',
  '151.101.0.0/16',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '8.8.8.0/24',
  '8.8.4.0/24',
  '1.1.1.0/24',
];
const PUBLIC6 = ['2600:9000::/32', '2a04:4e42::/32', '2001:db8:100::/40', '2001:4860:4860::/48'];
const PRIVATE4 = ['10.200.0.0/16', '169.254.169.254/32'];
const PRIVATE6 = ['fdc0:200::/32'];
/** Where Docker takes its networks from; NET knows the way back, for networks without masquerade. */
const DOCKER4 = '172.16.0.0/12';
const DOCKER6 = 'fd00:db::/32';

export const HTTP_PORTS = [80, 8000, 8080];
export const TLS_PORTS = [443, 8443];
export const ECHO_PORT = 7;
export const CHARGEN_PORT = 19;
export const NTP_PORT = 123;
export const MARKER_PORT = 9;
/** Nothing listens here: the internet's own "refused", to be told from a firewall's. */
const CLOSED_PORT = 1;

const file = (netns: string): string => `/run/netns/${netns}`;
const inNetns = (netns: string, argv: readonly string[], options: RunOptions = {}): Promise<unknown> =>
  run(['nsenter', `--net=${file(netns)}`, '--', ...argv], { check: true, ...options });
const batch = (netns: string, lines: readonly string[]): Promise<unknown> =>
  run(['ip', '-n', netns, '-batch', '-'], { check: true, input: `${lines.join('\n')}\n` });

function hostLines(): string[] {
  const a = ADDRESSES;
  return [
    'link set lo up',
    `address add ${a.host4}/24 dev eth0`,
    `address add ${a.host6}/64 dev eth0 nodad`,
    'link set eth0 up',
    `route add default via ${a.gateway4}`,
    `route add ::/0 via ${a.gateway6}`,
  ];
}

function netLines(): string[] {
  const a = ADDRESSES;
  return [
    'link set lo up',
    `address add ${a.gateway4}/24 dev eth0`,
    `address add ${a.gateway6}/64 dev eth0 nodad`,
    'link set eth0 up',
    ...[...PUBLIC4, ...PRIVATE4].map((n) => `route add local ${n} dev lo`),
    ...[...PUBLIC6, ...PRIVATE6].map((n) => `route add local ${n} dev lo`),
    ...a.authority4.map((x) => `address add ${x}/32 dev lo`),
    ...a.authority6.map((x) => `address add ${x}/128 dev lo nodad`),
    `route add ${DOCKER4} via ${a.host4}`,
    `route add ${DOCKER6} via ${a.host6}`,
  ];
}

/** A UDP socket cannot answer from whatever address was asked; conntrack can: all datagrams go to the gateway's address. */
function netNat(authority: readonly string[], gateway: string): string {
  const to = (port: number): string =>
    `DNAT --to-destination ${gateway.includes(':') ? `[${gateway}]` : gateway}:${port}`;
  const tcp = [53, ECHO_PORT, CHARGEN_PORT, CLOSED_PORT, ...HTTP_PORTS, ...TLS_PORTS];
  return [
    '*nat',
    ...authority.map((x) => `-A PREROUTING -p udp -d ${x} --dport 53 -j RETURN`),
    `-A PREROUTING -p udp --dport 53 -j ${to(53)}`,
    `-A PREROUTING -p udp -m multiport --dports ${MARKER_PORT},${CLOSED_PORT} -j RETURN`,
    ...[CHARGEN_PORT, NTP_PORT].map((p) => `-A PREROUTING -p udp --dport ${p} -j ${to(p)}`),
    `-A PREROUTING -p udp -j ${to(ECHO_PORT)}`,
    `-A PREROUTING -p tcp -m multiport --dports ${tcp.join(',')} -j RETURN`,
    `-A PREROUTING -p tcp -j REDIRECT --to-ports ${ECHO_PORT}`,
    'COMMIT',
    '',
  ].join('\n');
}

const SYSCTLS = [
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv4.conf.all.rp_filter=0',
  // a new bridge's gateway address would otherwise not answer for its first two seconds
  'net.ipv6.conf.all.accept_dad=0',
  'net.ipv6.conf.default.accept_dad=0',
];

/** Of all servers in NET, also without a cookie (tcp_fastopen in ip-sysctl.rst). */
const TAKES_DATA_WITH_SYN = 'net.ipv4.tcp_fastopen=1539';

export async function makeNamespaces(host: string, net: string): Promise<void> {
  await Promise.all([
    run(['ip', 'netns', 'add', host], { check: true }),
    run(['ip', 'netns', 'add', net], { check: true }),
  ]);
  const a = ADDRESSES;
  await batch(host, [
    `link add eth0 address ${a.hostMac} type veth peer name eth0 address ${a.netMac} netns ${net}`,
  ]);
  await Promise.all([
    batch(host, hostLines()),
    batch(net, netLines()),
    inNetns(host, ['sysctl', '-qw', ...SYSCTLS]),
    inNetns(net, [
      'sysctl',
      '-qw',
      ...SYSCTLS,
      'net.ipv4.icmp_ratelimit=0',
      'net.ipv6.icmp.ratelimit=0',
      TAKES_DATA_WITH_SYN,
    ]),
    inNetns(net, ['iptables-restore'], { input: netNat(a.authority4, a.gateway4) }),
    inNetns(net, ['ip6tables-restore'], { input: netNat(a.authority6, a.gateway6) }),
  ]);
}

export async function removeNamespace(name: string): Promise<void> {
  if (namespaceOf(file(name)) === undefined) return;
  const { code, stderr } = await run(['ip', 'netns', 'delete', name]);
  const left = code !== 0 && namespaceOf(file(name)) !== undefined; // somebody else may have been faster
  if (left) throw new Error(`cannot delete network namespace ${name}: ${stderr.trim()}`);
}
