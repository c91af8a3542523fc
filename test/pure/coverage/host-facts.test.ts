import { describe, expect, it } from 'vitest';
import { readHostFacts } from '../../../src/coverage/host-facts.js';
import { hostFindings } from '../../../src/coverage/host-findings.js';
import type { Exec } from '../../../src/kernel/exec.js';

const DOCKER = [
  '*filter',
  ':INPUT ACCEPT [0:0]',
  ':FORWARD DROP [0:0]',
  ':DOCKER-USER - [0:0]',
  ':DB-FORWARD - [0:0]',
  '-A FORWARD -j DOCKER-USER',
  '-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
  '-A FORWARD -i docker0 ! -o docker0 -j ACCEPT',
  '-A DOCKER-USER -m comment --comment DB:0123 -j DB-FORWARD',
  '-A DOCKER-USER -j RETURN',
];
const BARE = ['*filter', ':FORWARD ACCEPT [0:0]'];
const SWITCHES: Record<string, string> = {
  '/proc/sys/net/ipv4/ip_forward': '1\n',
  '/proc/sys/net/ipv6/conf/all/forwarding': '1\n',
  '/proc/sys/net/bridge/bridge-nf-call-iptables': '1\n',
  '/proc/sys/net/bridge/bridge-nf-call-ip6tables': '1\n',
  '/etc/resolv.conf': '# x\nnameserver 192.0.2.53\n nameserver ::1\nsearch a.org\n',
};

interface Host {
  readonly v4?: readonly string[];
  readonly v6?: readonly string[];
  readonly tables?: string;
  readonly files?: Record<string, string | undefined>;
}
async function look({ v4 = DOCKER, v6 = DOCKER, tables = '', files = {} }: Host = {}) {
  const answers: Record<string, string> = {
    'iptables-save': `${v4.join('\n')}\nCOMMIT\n`,
    'ip6tables-save': `${v6.join('\n')}\nCOMMIT\n`,
    nft: tables,
  };
  const run: Exec = async (file) => ({ code: 0, stdout: answers[file] ?? '', stderr: '' });
  const text = { ...SWITCHES, ...files };
  return readHostFacts(run, 'DB', new Set(['docker0', 'br-1']), (path) => text[path]);
}
const codes = async (host: Host): Promise<string[]> =>
  hostFindings({ host: await look(host), engine: {}, failure: 'closed' }).map((f) => `${f.code}:${f.state}`);
/** Docker's rules with these put in front. */
const ahead = (...rules: string[]): string[] => [
  ...DOCKER.slice(0, 5),
  ':foreign - [0:0]',
  ...rules,
  ...DOCKER.slice(5),
];

describe('facts of the host', () => {
  it('of a usual one: nothing to say', async () => {
    expect(await look()).toEqual({
      forwarding: { v4: true, v6: true },
      bridgeNf: { v4: true, v6: true },
      dockerUser: { v4: true, v6: true },
      foreignAccepts: [],
      firewalld: false,
      ufw: false,
      unseenSockets: [],
      resolvers: ['192.0.2.53', '::1'],
    });
    expect(await codes({})).toEqual([]);
  });

  it.each<[string, Host, string[]]>([
    ['iptables: false', { v4: BARE, v6: BARE }, ['docker-iptables-off:enforced']],
    ['ip6tables off', { v6: BARE }, ['docker-ip6tables-off:enforced']],
    [
      'br_netfilter not loaded',
      {
        files: {
          '/proc/sys/net/bridge/bridge-nf-call-iptables': undefined,
          '/proc/sys/net/bridge/bridge-nf-call-ip6tables': undefined,
        },
      },
      ['br-netfilter-off:enforced'],
    ],
    [
      'br_netfilter off for IPv6',
      { files: { '/proc/sys/net/bridge/bridge-nf-call-ip6tables': '0' } },
      ['br-netfilter-off:enforced'],
    ],
    ['no forwarding', { files: { '/proc/sys/net/ipv4/ip_forward': '0' } }, ['forwarding-off:enforced']],
    ['firewalld', { tables: 'table inet firewalld\ntable ip nat\n' }, ['firewalld:enforced']],
    ['ufw', { v4: [...DOCKER.slice(0, 5), ':ufw-user-input - [0:0]', ...DOCKER.slice(5)] }, ['ufw:enforced']],
  ])('%s', async (_name, host, expected) => {
    expect(await codes(host)).toEqual(expected);
  });

  it.each<[string, string[], number]>([
    ['any', ['-A FORWARD -j ACCEPT'], 1],
    ['from a managed bridge', ['-A FORWARD -i docker0 -j ACCEPT'], 1],
    ['by a pattern', ['-A FORWARD -i br-+ -j ACCEPT'], 1],
    ['all but another', ['-A FORWARD ! -i eth0 -j ACCEPT'], 1],
    ['in a chain, jumped to', ['-A FORWARD -j foreign', '-A foreign -d 192.0.2.0/24 -j ACCEPT'], 1],
    ['in a chain, gone to', ['-A FORWARD -g foreign', '-A foreign -j ACCEPT'], 1],
    ['new by state', ['-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT'], 1],
    ['not invalid', ['-A FORWARD -m conntrack ! --ctstate INVALID -j ACCEPT'], 1],
    ['replies only', ['-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'], 0],
    ['from elsewhere', ['-A FORWARD -i virbr0 -j ACCEPT'], 0],
    ['a drop', ['-A FORWARD -i docker0 -j DROP'], 0],
    ['in a chain that nobody jumps to', ['-A foreign -j ACCEPT'], 0],
  ])('an accept ahead of ours: %s', async (_name, rules, count) => {
    const { foreignAccepts } = await look({ v4: ahead(...rules) });
    expect(foreignAccepts).toHaveLength(count);
  });

  it("when our jump stands behind Docker's accepts, they are ahead", async () => {
    const late = [...DOCKER.slice(0, 8), '-A FORWARD -m comment --comment DB:0123 -j DB-FORWARD'];
    const { foreignAccepts } = await look({ v4: late });
    expect(foreignAccepts).toEqual([
      { family: 4, chain: 'FORWARD', rule: '-i docker0 ! -o docker0 -j ACCEPT' },
    ]);
  });

  it('where ours does not stand yet, its place counts', async () => {
    const bare = (lines: readonly string[]): string[] => lines.filter((l) => !l.includes('DB:'));
    expect((await look({ v4: bare(DOCKER) })).foreignAccepts).toEqual([]);
    const early = bare(ahead('-A FORWARD -j ACCEPT'));
    expect((await look({ v4: early })).foreignAccepts).toHaveLength(1);
    expect(
      (await look({ v4: ['*filter', ':FORWARD ACCEPT [0:0]', '-A FORWARD -j ACCEPT'] })).foreignAccepts,
    ).toEqual([]);
  });

  it('every finding says what it means and what to do', async () => {
    const found = hostFindings({
      host: await look({ v4: ahead('-A FORWARD -j ACCEPT'), v6: BARE, tables: 'table inet firewalld\n' }),
      engine: { firewallBackend: 'nftables' },
      failure: 'open',
    });
    expect(found.map((f) => f.code)).toContain('failure-open');
    expect(found.length).toBeGreaterThan(3);
    for (const f of found) expect([f.detail.length > 40, f.remedy.length > 10]).toEqual([true, true]);
  });
});

it('sockets that send past the rules for the host’s network are those that are not known to be evaluated', async () => {
  const listed = (...names: string[]): string =>
    ['protocol  size sockets  memory', ...names.map((n) => `${n.padEnd(10)} 1024      0      -1`)].join('\n');
  const of = async (...names: string[]) =>
    (await look({ files: { '/proc/net/protocols': listed(...names) } })).unseenSockets;
  const usual = ['AF_VSOCK', 'PACKET', 'MPTCPv6', 'PINGv6', 'RAWv6', 'UDPLITEv6', 'UDPv6', 'TCPv6', 'XDP'];
  const others = [
    'UNIX-STREAM',
    'UNIX',
    'UDP-Lite',
    'MPTCP',
    'PING',
    'RAW',
    'UDP',
    'TCP',
    'SCTPv6',
    'NETLINK',
  ];
  expect(await of(...usual, ...others)).toEqual([]);
  expect(await of(...usual, 'RDS', 'PPPOE', 'TIPC', 'RXRPC', 'L2CAP')).toEqual([
    'L2CAP',
    'PPPOE',
    'RDS',
    'RXRPC',
    'TIPC',
  ]);
});
