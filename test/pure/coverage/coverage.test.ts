import { describe, expect, it } from 'vitest';
import { type CoverageInput, coverageFindings, coverageOf } from '../../../src/coverage/coverage.js';
import type { HostFacts } from '../../../src/coverage/host-facts.js';
import type { LanFacts } from '../../../src/coverage/network-findings.js';
import { practicesOf } from '../../../src/coverage/scan.js';
import {
  type ContainerFacts,
  type ContainerPractices,
  type NetworkFacts,
  subnetsWithoutGateway,
} from '../../../src/policy/container.js';
import { parseEntry } from '../../../src/policy/entry-parse.js';
import type { Policy, PolicyEntry } from '../../../src/policy/policy.js';
import { type HostCgroups, NO_HOST_NET } from '../../../src/ruleset/desired-state.js';

type Privileges = NonNullable<ContainerFacts['privileges']>;

const PLAIN: Privileges = {
  privileged: false,
  capAdd: [],
  pidMode: '',
  binds: [],
  devices: [],
  dns: [],
  pid: 1,
  sandboxKey: '/var/run/docker/netns/x',
};
const GOOD: ContainerPractices = {
  user: '1000:1000',
  envNames: ['PATH', 'POSTGRES_PASSWORD_FILE', 'PWD'],
  memoryLimit: 1 << 28,
  pidsLimit: 100,
  openPorts: [],
};
const HOST: HostFacts = {
  forwarding: { v4: true, v6: true },
  bridgeNf: { v4: true, v6: true },
  dockerUser: { v4: true, v6: true },
  foreignAccepts: [],
  firewalld: false,
  ufw: false,
  resolvers: ['127.0.0.53', '192.0.2.53'],
};
const network = (id: string, more: Partial<NetworkFacts> = {}): NetworkFacts => ({
  id,
  name: id,
  driver: 'bridge',
  scope: 'local',
  internal: false,
  ipv6: false,
  subnets: [],
  gateways: [],
  labels: {},
  options: {},
  ...more,
});
function container(more: Partial<ContainerFacts> = {}): ContainerFacts {
  return {
    id: 'a'.repeat(64),
    name: 'web',
    image: `busybox@sha256:${'1'.repeat(64)}`,
    imageId: 'sha256:1',
    labels: {},
    imageLabels: {},
    state: 'running',
    networkMode: 'front',
    endpoints: [{ networkId: 'front', mac: '02:00:00:00:00:01', ip4: '172.18.0.2', dnsNames: [] }],
    published: [],
    privileges: PLAIN,
    practices: GOOD,
    ...more,
  };
}
function entry(text: string): PolicyEntry {
  const parsed = parseEntry(text);
  if (!parsed.ok || parsed.value.kind !== 'dest') throw new Error(`bad entry in test: ${text}`);
  return { entry: parsed.value, source: { kind: 'label' } };
}
const policy = (...entries: string[]): Policy => ({
  mode: 'enforce',
  modeSource: { kind: 'label' },
  entries: entries.map(entry),
  lists: [],
  notes: [],
});
const senders = (more: Partial<HostCgroups> = {}): HostCgroups => ({
  net: NO_HOST_NET,
  cgroups: new Map(),
  late: new Map(),
  open: new Map(),
  ...more,
});
function input(c: ContainerFacts, more: Partial<CoverageInput> = {}): CoverageInput {
  return {
    failure: 'closed',
    container: c,
    holder: c,
    policy: policy(),
    networks: new Map([['front', network('front')]]),
    managed: new Set(['front']),
    frames: { isOn: true, isKept: true },
    hostNetwork: { senders: senders(), mode: 'enforce', noResolver: undefined },
    lan: { isManaged: () => true, mode: 'enforce', status: undefined, isLimited: false, members: [c] },
    names: { hostAsked: false, namespaceDns: 'none', resolvers: HOST.resolvers },
    own: {
      dockerSocket: '/var/run/docker.sock',
      apiSocket: '/run/drawbridge/api.sock',
      state: '/var/lib/drawbridge',
      allowlists: '/etc/drawbridge/allowlists',
    },
    isStore: false,
    isSelf: false,
    host: HOST,
    engine: {},
    ...more,
  };
}
const withPrivileges = (p: Partial<Privileges>): CoverageInput =>
  input(container({ privileges: { ...PLAIN, ...p } }));
const codes = (i: CoverageInput): string[] => coverageFindings(i).map((f) => `${f.code}:${f.state}`);

describe('coverage of a container', () => {
  it('is enforced, without a reason, when nothing weakens it', () => {
    expect(coverageOf(input(container()))).toEqual({ state: 'enforced', reasons: [] });
  });

  it('is partial while frames are not checked before all rules, for containers that can send what they like', () => {
    const checks = [
      [{ isOn: false, isKept: false, why: 'an old kernel' }, /other bytes can arrive.*: an old kernel/],
      [{ isOn: true, isKept: false, why: 'not mounted' }, /only while the service runs: not mounted/],
    ] as const;
    for (const [frames, why] of checks) {
      expect(coverageOf(input(container(), { frames }))).toEqual({
        state: 'partial',
        reasons: [expect.stringMatching(why)],
      });
      const without = container({ privileges: { ...PLAIN, capDrop: ['NET_RAW'] } });
      expect(codes(input(without, { frames }))).toEqual([]);
      expect(
        codes({ ...input(container(), { frames }), lan: { ...input(container()).lan, mode: 'observe' } }),
      ).toEqual([]);
    }
  });

  it('is said in one word of the container that Drawbridge itself runs in', () => {
    const self = container({ privileges: { ...PLAIN, capAdd: ['NET_ADMIN', 'SYS_ADMIN'], pidMode: 'host' } });
    expect(codes(input(self, { isSelf: true }))).toEqual(['itself:unenforced']);
    expect(codes(input(self))).toContain('net-admin:partial');
  });

  it("tells of the container of Drawbridge's own Redis who reaches it all the same", () => {
    const redis = container();
    expect(codes(input(redis, { isStore: true }))).toEqual(['own-redis:enforced']);
    const member = container({ id: 'b'.repeat(64), name: 'helper', sharesWith: redis.id });
    const lan = { ...input(redis).lan, members: [redis, member] };
    expect(coverageFindings(input(redis, { isStore: true, lan }))).toMatchObject([
      { code: 'own-redis', state: 'partial', detail: expect.stringContaining('helper') },
    ]);
    const ignored = coverageFindings(input(redis, { isStore: true, managed: new Set() }));
    expect(ignored.find((f) => f.code === 'own-redis')).toMatchObject({
      state: 'partial',
      detail: expect.stringContaining('containers on front'),
    });
  });

  it('notes a network namespace whose file Drawbridge cannot see', () => {
    const path = '/srv/docker/netns/0123456789ab';
    expect(coverageFindings(input(container(), { hiddenSandbox: path }))).toMatchObject([
      {
        code: 'hidden-sandbox',
        state: 'enforced',
        remedy: expect.stringContaining('/srv/docker/netns into'),
      },
    ]);
  });

  it.each<[Partial<Privileges>, string[]]>([
    [{ privileged: true }, ['privileged:unenforced']],
    [{ capAdd: ['NET_ADMIN'] }, ['net-admin:partial']],
    [{ capAdd: ['SYS_ADMIN'] }, ['sys-admin:partial']],
    [{ capAdd: ['SYS_MODULE'] }, ['sys-module:unenforced']],
    [{ capAdd: ['SYS_RAWIO'] }, ['sys-rawio:unenforced']],
    [{ capAdd: ['BPF'] }, ['bpf:partial']],
    [{ capAdd: ['DAC_READ_SEARCH'] }, ['dac-read-search:partial']],
    [{ capAdd: ['SYS_TIME'] }, ['sys-time:partial']],
    [{ capAdd: ['ALL'] }, ['all-capabilities:unenforced']],
    [{ capAdd: ['NET_RAW', 'CHOWN', 'SYS_PTRACE', 'constructor'] }, []],
    [{ pidMode: 'host' }, ['host-pid:partial']],
    [{ pidMode: 'host', capAdd: ['SYS_PTRACE'] }, ['host-pid:unenforced']],
    [{ pidMode: 'host', capAdd: ['SYS_ADMIN'] }, ['sys-admin:partial', 'host-pid:unenforced']],
    [{ pidMode: 'container:x' }, []],
    [{ hasOpenSystemPaths: true }, ['system-paths:partial']],
    [{ hasOpenSystemPaths: true, privileged: true }, ['privileged:unenforced']],
    [{ securityOpt: ['seccomp=unconfined'] }, ['seccomp-unconfined:partial']],
    [{ securityOpt: ['seccomp=unconfined'], privileged: true }, ['privileged:unenforced']],
    [{ securityOpt: ['seccomp=profile'] }, ['seccomp-profile:partial']],
    [{ securityOpt: ['seccomp=builtin', 'no-new-privileges=true', 'apparmor=docker-default'] }, []],
    [{ securityOpt: ['apparmor=unconfined'] }, ['apparmor-unconfined:enforced']],
    [
      { securityOpt: ['apparmor=unconfined'], capAdd: ['SYS_ADMIN'] },
      ['sys-admin:partial', 'apparmor-unconfined:unenforced'],
    ],
    [{ securityOpt: ['label=disable'], capAdd: ['SYS_ADMIN'] }, ['sys-admin:partial']],
    [{ runtime: 'runc' }, []],
    [{ runtime: 'io.containerd.runc.v2' }, []],
    [{ runtime: 'runsc' }, ['runtime:partial']],
    [{ deviceRequests: ['vendor.com/net=vf0'] }, ['requested-device:partial']],
    [{ deviceRequests: ['nvidia.com/gpu=all'] }, ['requested-device:enforced']],
    [{ deviceRequests: ['gpu'] }, ['requested-device:enforced']],
    [{ deviceRules: ['b *:* rmw'] }, ['device-rule:unenforced']],
    [{ devices: ['/dev/disk/by-id/x'] }, ['disk-device:unenforced']],
    [{ devices: ['/dev/net/tun'] }, ['tun:partial']],
    [{ devices: ['/dev/sda1', '/dev/snd'] }, ['disk-device:unenforced']],
    [{ devices: ['/dev/mem'] }, ['memory-device:unenforced']],
    [{ binds: ['/dev/net/tun:/dev/net/tun'] }, ['tun:partial']],
    [{ binds: ['/dev:/dev:ro'] }, ['all-devices:unenforced']],
    [{ binds: ['/var/run/docker.sock:/var/run/docker.sock'] }, ['docker-socket:unenforced']],
    [{ binds: ['/run/docker.sock:/s:ro'] }, ['docker-socket:unenforced']],
    [{ binds: ['/run/podman/podman.sock:/s'] }, ['runtime-socket:unenforced']],
    [{ binds: ['/run/containerd:/c'] }, ['runtime-socket:unenforced']],
    [{ binds: ['/run/dbus/system_bus_socket:/d'] }, ['dbus:partial']],
    [{ binds: ['/run/drawbridge:/d:ro'] }, ['own-socket:unenforced']],
    [{ binds: ['/var/lib/drawbridge:/d:ro'] }, []],
    [{ binds: ['/var/lib/drawbridge:/d'] }, ['own-files:unenforced']],
    [{ binds: ['/etc/drawbridge/allowlists/ci.yaml:/l.yaml'] }, ['own-files:unenforced']],
    [{ binds: ['/etc:/etc'] }, ['host-files:partial', 'own-files:unenforced']],
    [{ binds: ['/etc/localtime:/etc/localtime', '/etc:/etc:ro'] }, []],
    [{ binds: ['/srv/data:/data', 'volume:/var/run/docker.sock', '/runner:/r', '/var:/v:ro'] }, []],
  ])('%j', (given, expected) => {
    expect(codes(withPrivileges(given))).toEqual(expected);
  });

  it.each(['/', '/run', '/var/run', '/run/', '//var/run//'])('the Docker socket is in %s', (folder) => {
    const found = coverageFindings(withPrivileges({ binds: [`${folder}:/host:ro,rslave`] }));
    const socket = found.find((f) => f.code === 'docker-socket');
    expect(socket).toMatchObject({ state: 'unenforced' });
    expect(socket?.detail).toMatch(/^the container can reach the Docker socket through its mount of \//);
    expect(found.map((f) => f.code)).toEqual(
      expect.arrayContaining(['dbus', 'runtime-socket', 'own-socket']),
    );
  });

  it('a Docker socket elsewhere is known from the configuration', () => {
    const i = withPrivileges({ binds: ['/srv/engine:/e'] });
    const found = codes({ ...i, own: { ...i.own, dockerSocket: '/srv/engine/docker.sock' } });
    expect(found).toEqual(['docker-socket:unenforced']);
  });

  it('is partial before Docker has told what the container may do', () => {
    const { privileges: _none, ...bare } = container();
    expect(codes(input(bare))).toEqual(['not-inspected:partial']);
  });

  it('through a mount of a folder only sockets that exist are named', () => {
    const i = withPrivileges({ binds: ['/:/host:ro'] });
    const named = (exists?: (path: string) => boolean | undefined): string =>
      coverageFindings({ ...i, own: { ...i.own, ...(exists && { exists }) } })
        .map((f) => f.detail)
        .join('\n');
    const here = named((path) => path.includes('containerd'));
    expect(here).toContain('the Docker socket through its mount of /');
    expect(here).toContain("containerd's socket through its mount of /");
    expect(here).not.toMatch(/Podman|CRI-O|BuildKit|LXD/);
    // Where the files of the host cannot be read, what may be there counts.
    expect(named(() => undefined)).toContain("Podman's socket");
    expect(named()).toContain("Podman's socket");
    const itself = withPrivileges({ binds: ['/run/podman/podman.sock:/p.sock'] });
    expect(codes({ ...itself, own: { ...itself.own, exists: () => false } })).toContain(
      'runtime-socket:unenforced',
    );
  });

  it('the worst decides and stands first; notes of the policy come last', () => {
    const i = withPrivileges({ capAdd: ['NET_ADMIN'], privileged: true });
    const notes = [{ detail: 'list npm is missing', remedy: 'make it' }];
    const coverage = coverageOf({ ...i, policy: { ...policy(), notes } });
    expect(coverage.state).toBe('unenforced');
    expect(coverage.reasons.map((r) => r.slice(0, 20))).toEqual([
      'the container is pri',
      'the container has th',
      'list npm is missing;',
    ]);
    for (const reason of coverage.reasons) expect(reason).toMatch(/[;:] \w/);
  });
});

describe('networks', () => {
  const on = (facts: NetworkFacts, more: Partial<CoverageInput> = {}): CoverageInput => {
    const c = container({ endpoints: [{ networkId: facts.id, mac: '', ip4: '10.0.0.2', dnsNames: [] }] });
    return input(c, { networks: new Map([[facts.id, facts]]), managed: new Set(), ...more });
  };

  it.each([
    [network('m', { driver: 'macvlan' }), 'macvlan-network:unenforced'],
    [network('m', { driver: 'macvlan', internal: true }), 'macvlan-network:partial'],
    [network('i', { driver: 'ipvlan' }), 'ipvlan-network:unenforced'],
    [network('o', { driver: 'overlay', scope: 'swarm' }), 'overlay-network:partial'],
    [network('b'), 'unmanaged-network:unenforced'],
    [network('b', { internal: true }), 'unmanaged-network:partial'],
    [network('w', { driver: 'weave' }), 'unknown-network:unenforced'],
  ])('%j', (facts, expected) => {
    expect(codes(on(facts))).toEqual([expected]);
  });

  it.each([
    [{ 'com.docker.network.bridge.inhibit_ipv4': 'true' }, true, []],
    [{ 'com.docker.network.bridge.gateway_mode_ipv4': 'isolated' }, true, []],
    [{ 'com.docker.network.bridge.gateway_mode_ipv6': 'isolated' }, true, ['no-gateway:enforced']],
    [{ 'com.docker.network.bridge.gateway_mode_ipv6': 'isolated' }, false, []],
    [{ 'com.docker.network.bridge.gateway_mode_ipv6': 'nat' }, true, []],
  ])('a managed network whose bridge has no address: %j, IPv6 %s', (options, ipv6, expected) => {
    expect(codes(on(network('b', { options, ipv6 }), { managed: new Set(['b']) }))).toEqual(expected);
  });

  it.each([
    [{ 'com.docker.network.bridge.inhibit_ipv4': 'true' }, ['172.20.0.0/16']],
    [{ 'com.docker.network.bridge.inhibit_ipv4': 'false' }, []],
    [{ 'com.docker.network.bridge.gateway_mode_ipv4': 'isolated' }, ['172.20.0.0/16']],
    [{ 'com.docker.network.bridge.gateway_mode_ipv6': 'isolated' }, []],
  ])('IPv4 subnets in which the bridge has no address: %j', (options, expected) => {
    const subnets = ['172.20.0.0/16', 'fd00:1::/64'];
    expect(subnetsWithoutGateway(network('b', { options, subnets }))).toEqual(expected);
  });

  it('macvlan: held by rules inside; what goes around them, or may take them away, is said', () => {
    const lan = network('m', { driver: 'macvlan' });
    const plain = { ...PLAIN, capDrop: ['NET_RAW'] };
    const stands = { failure: undefined, frames: undefined };
    const found = (
      more: Partial<LanFacts>,
      privileges: NonNullable<ContainerFacts['privileges']> = plain,
    ): string[] => {
      const c = container({
        privileges,
        endpoints: [{ networkId: 'm', mac: '', ip4: '10.0.0.2', dnsNames: [] }],
      });
      const facts = {
        isManaged: () => true,
        mode: 'enforce' as const,
        status: stands,
        isLimited: false,
        members: [c],
        ...more,
      };
      return codes(input(c, { networks: new Map([['m', lan]]), managed: new Set(), lan: facts }));
    };
    const [held, open, around] = [
      'macvlan-network:enforced',
      'macvlan-network:unenforced',
      'macvlan-net-raw:partial',
    ];
    expect(found({})).toEqual([held]);
    expect(found({}, PLAIN)).toEqual([around, held]);
    expect(found({ status: { ...stands, frames: 'no such hook' } }, PLAIN)).toEqual([around, held]);
    expect(found({}, { ...plain, capAdd: ['NET_ADMIN'] })).toEqual([open, 'net-admin:partial']);
    expect(found({ members: [container({ privileges: { ...plain, capAdd: ['ALL'] } })] })).toEqual([open]);
    for (const mode of ['observe', 'off'] as const) expect(found({ mode })).toEqual([open]);
    expect(found({ status: undefined })).toEqual([open]);
    expect(found({ status: { ...stands, failure: 'nft: no such file' } })).toEqual([open]);
    expect(found({ isManaged: () => false })).toEqual([open]);
    expect(found({ isLimited: true })).toEqual(['limit-macvlan-network:partial', held]);
    expect(found({ isAsking: true })).toEqual(['ask-macvlan-network:enforced', held]);
  });

  it('none has no way out', () => {
    expect(codes(on(network('n', { driver: 'null' })))).toEqual([]);
  });

  it('one bad network beside a good one is enough', () => {
    const c = container();
    const both = { ...c, endpoints: [...c.endpoints, { networkId: 'lan', mac: '', dnsNames: [] }] };
    const networks = new Map([
      ['front', network('front')],
      ['lan', network('lan', { driver: 'macvlan' })],
    ]);
    expect(coverageOf(input(both, { networks })).state).toBe('unenforced');
  });

  it('the host network: held by cgroup; raw frames, late starts and power over the host’s rules are said', () => {
    const privileges = { ...PLAIN, capDrop: ['NET_RAW'] };
    const c = container({ networkMode: 'host', endpoints: [], privileges });
    const at = (more: Partial<HostCgroups>) => ({
      hostNetwork: { senders: senders(more), mode: 'enforce' as const, noResolver: undefined },
    });
    expect(coverageOf(input(c)).state).toBe('enforced');
    expect(codes(input(c))).toEqual(['host-network:enforced']);
    expect(codes(input({ ...c, privileges: PLAIN }))).toContain('host-net-raw:partial');
    expect(codes(input({ ...c, privileges: { ...privileges, capAdd: ['NET_ADMIN'] } }))).toContain(
      'host-net-admin:unenforced',
    );
    const { hostNetwork } = at({});
    const unseenSockets = ['PPPOE', 'RDS'];
    expect(codes(input(c, { hostNetwork: { ...hostNetwork, unseenSockets } }))).toContain(
      'host-network-sockets:partial',
    );
    expect(codes(input(c, { hostNetwork: { ...hostNetwork, unseenSockets: [] } }))).toEqual([
      'host-network:enforced',
    ]);
    for (const why of ['shared', 'unseen'] as const)
      expect(codes(input(c, at({ late: new Map([[c.id, why]]) })))).toContain('host-network-start:partial');
    const gated = (gate: object) =>
      codes(
        input(c, at({ net: { gates: [{ path: 'docker', object: '1', ...gate }], exempt: [], builds: [] } })),
      );
    expect(gated({})).toContain('host-network-backstop:enforced');
    expect(gated({ nft: 'docker' })).toEqual(['host-network:enforced']);
    const open = coverageOf(input(c, at({ open: new Map([[c.id, 'its cgroup was not found']]) })));
    expect(open).toMatchObject({
      state: 'unenforced',
      reasons: [expect.stringContaining('was not found')],
    });
  });

  it('of another container: its networks count; labels that do not hold are a lack', () => {
    const holder = container({ id: 'b'.repeat(64), name: 'vpn' });
    const sidecar = container({
      networkMode: `container:${holder.id}`,
      sharesWith: holder.id,
      endpoints: [],
    });
    expect(codes(input(sidecar, { holder }))).toEqual(['shared-network:enforced']);
    const labelled = { ...sidecar, labels: { 'drawbridge.allow': 'a.org' } };
    expect(codes(input(labelled, { holder }))).toEqual(['shared-network:partial']);
    const hosted = { ...holder, networkMode: 'host', endpoints: [] };
    expect(codes(input(sidecar, { holder: hosted }))).toContain('host-net-raw:partial');
  });
});

describe('limits', () => {
  const limited = { ...policy(), limits: { rateBitsPerSecond: 1e6 } };
  it('segments that are counted once are reported: the kernel cannot, or the container may change it', () => {
    const found = (more: Partial<CoverageInput>, capAdd: readonly string[] = []): string[] =>
      codes(input(container({ privileges: { ...PLAIN, capAdd } }), { policy: limited, ...more }));
    expect(found({})).not.toContain('limit-segments:partial');
    expect(found({ uncountedSegments: 'not supported' })).toContain('limit-segments:partial');
    expect(found({}, ['NET_ADMIN'])).toContain('limit-segments:partial');
    expect(found({ policy: policy() }, ['NET_ADMIN'])).not.toContain('limit-segments:partial');
  });
});

describe('names and proxies', () => {
  it('names asked from the host: first the dns of the service, which needs no restart of Docker', () => {
    const names = { hostAsked: true, namespaceDns: 'attached', resolvers: HOST.resolvers } as const;
    const { state, reasons } = coverageOf(input(container(), { names }));
    expect(state).toBe('partial');
    expect(reasons[0]).toMatch(
      /; add dns: \[192\.0\.2\.53\] to its compose service .* recreate it; .*"dns": \["192\.0\.2\.53"\].*restart Docker/,
    );
    const failed = coverageOf(
      input(container(), { names: { ...names, namespaceDns: 'failed', resolvers: [] } }),
    );
    expect(failed.reasons[0]).toMatch(/DNS queries are not filtered; add dns: \[ADDRESS/);
    const early = coverageOf(input(container(), { names: { ...names, hostAsked: undefined } }));
    expect([early.state, early.reasons[0]]).toEqual([
      'partial',
      expect.stringMatching(/^it is not known yet .*; look again in a moment; if this stays, add dns:/),
    ]);
    const observed = { ...policy(), mode: 'observe' } as const;
    expect(codes(input(container(), { names, policy: observed }))).toEqual([]);
  });

  const env = (...envNames: string[]): ContainerFacts => container({ practices: { ...GOOD, envNames } });
  it.each<[string[], string[], string[]]>([
    [['HTTP_PROXY', 'no_proxy'], [], ['proxy-variable:enforced']],
    [['https_proxy'], ['10.0.0.5:3128'], ['relay:partial']],
    [[], ['10.0.0.5:3128'], ['relay:enforced']],
    [
      [],
      ['10.0.0.5:8080', 'container:squid:3128', '[fd00::1]:1080'],
      ['relay:enforced', 'relay:enforced', 'relay:enforced'],
    ],
    [[], ['10.0.0.5:443', '10.0.0.0/8:1-65535', '10.0.0.5', '10.0.0.5:3128/udp'], []],
    [[], ['93.184.1.1:8080', 'container:app:8080', 'a.org:3128'], []],
    [['SOCKS_PROXY'], ['host:9050'], ['relay:partial']],
    [
      [],
      ['container:dockerproxy:2375', 'host:2376', '10.0.0.5:2375'],
      ['engine-port:enforced', 'engine-port:enforced', 'engine-port:enforced'],
    ],
    [[], ['93.184.1.1:2375', 'a.org:2375', 'container:db:2375/udp', '10.0.0.0/8:1-65535'], []],
  ])('variables %j, entries %j', (variables, entries, expected) => {
    expect(codes(input(env(...variables), { policy: policy(...entries) }))).toEqual(expected);
  });
});

describe('the host', () => {
  const accept = { family: 4, chain: 'FORWARD', rule: '-i docker0 -j ACCEPT' } as const;

  it('what weakens every container is said with each', () => {
    expect(codes(input(container(), { engine: { firewallBackend: 'nftables' } }))).toEqual([
      'nftables-backend:unenforced',
    ]);
    expect(codes(input(container(), { engine: { seccomp: 'unconfined' } }))).toEqual([
      'engine-seccomp:partial',
    ]);
    expect(codes(input(container(), { engine: { seccomp: '' } }))).toEqual(['engine-seccomp:partial']);
    expect(codes(input(container(), { engine: { seccomp: 'builtin', hasPlugins: true } }))).toEqual([]);
    const host = { ...HOST, foreignAccepts: [accept, accept, accept, accept] };
    const { reasons } = coverageOf(input(container(), { host }));
    expect(reasons[0]).toContain('IPv4 FORWARD: -i docker0 -j ACCEPT');
    expect(reasons[0]).toContain('and 1 more');
  });

  it('what holds all the same is for scan and doctor alone', () => {
    const host: HostFacts = {
      ...HOST,
      bridgeNf: { v4: false, v6: false },
      dockerUser: { v4: false, v6: false },
      firewalld: true,
      ufw: true,
    };
    expect(codes(input(container(), { host }))).toEqual([]);
  });
});

describe('practices', () => {
  const practices = (more: Partial<ContainerPractices>, image?: string): string[] =>
    practicesOf(container({ practices: { ...GOOD, ...more }, ...(image ? { image } : {}) })).map(
      (p) => p.code,
    );

  it('good ones are not told', () => {
    expect(practices({})).toEqual([]);
  });

  it.each<[Partial<ContainerPractices>, string[]]>([
    [{ user: '' }, ['root-user']],
    [{ user: 'root' }, ['root-user']],
    [{ user: '0:0' }, ['root-user']],
    [{ user: '0:1000' }, ['root-user']],
    [{ user: 'rooty' }, []],
    [{ memoryLimit: 0 }, ['no-limits']],
    [{ pidsLimit: 0 }, ['no-limits']],
    [{ openPorts: ['8080->80/tcp'] }, ['published-everywhere']],
    [{ envNames: ['POSTGRES_PASSWORD'] }, ['secret-in-environment']],
    [{ envNames: ['apiKey'] }, ['secret-in-environment']],
    [{ envNames: ['AWS_SECRET_ACCESS_KEY'] }, ['secret-in-environment']],
    [{ envNames: ['DATABASE_URL'] }, ['secret-in-environment']],
    [{ envNames: ['MYSQL_PWD'] }, ['secret-in-environment']],
    [{ envNames: ['PASSWORD_FILE', 'PWD', 'OLDPWD', 'KEYBOARD', 'TOKENIZER', 'PUBLIC_URL', 'PATH'] }, []],
  ])('%j', (given, expected) => {
    expect(practices(given)).toEqual(expected);
  });

  it.each([
    ['nginx', ['image-not-pinned']],
    ['nginx:1.25', ['image-not-pinned']],
    [`ghcr.io/a/b@sha256:${'a'.repeat(64)}`, []],
    [`sha256:${'a'.repeat(64)}`, []],
    ['nginx@sha256:short', ['image-not-pinned']],
  ])('image %s', (image, expected) => {
    expect(practices({}, image)).toEqual(expected);
  });

  it('names of secrets are told, the list is bounded', () => {
    const envNames = Array.from({ length: 12 }, (_, i) => `TOKEN_${i}`);
    const [found] = practicesOf(container({ practices: { ...GOOD, envNames } }));
    expect(found?.detail).toContain('TOKEN_0');
    expect(found?.detail).toContain('and 4 more');
  });
});
