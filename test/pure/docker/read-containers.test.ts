import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { engineFacts } from '../../../src/coverage/host-findings.js';
import {
  canonicalCidr,
  canonicalIp,
  canonicalMac,
  readDaemon,
  UNREADABLE_LABELS,
} from '../../../src/docker/docker-values.js';
import { readContainers, readImageLabels, readInspect } from '../../../src/docker/read-containers.js';
import { readNetwork, readNetworks } from '../../../src/docker/read-networks.js';
import { containerInspect, ID, listItem, networkInspect } from './samples.js';

describe('container list', () => {
  it('reads what Docker shows', () => {
    const notes: string[] = [];
    expect(readContainers([listItem()], notes)).toEqual([
      {
        id: ID('a'),
        name: 'web',
        image: 'shop:1',
        imageId: `sha256:${ID('1')}`,
        labels: { 'drawbridge.allow': 'a.example', name: 'forged' },
        state: 'running',
        networkMode: 'front',
        endpoints: [
          {
            networkId: ID('f'),
            mac: '02:42:ac:12:00:02',
            ip4: '172.18.0.2',
            ip6: 'fd00:aa::2',
            dnsNames: [],
          },
        ],
        published: [
          {
            proto: 'tcp',
            containerPort: 80,
            hosts: [
              { address: '0.0.0.0', port: 8080 },
              { address: '::', port: 8080 },
            ],
          },
        ],
      },
    ]);
    expect(notes).toEqual([]);
  });

  it('leaves out items without an id, and says so', () => {
    const notes: string[] = [];
    expect(readContainers([7, null, { Id: 'short' }, listItem()], notes)).toHaveLength(1);
    expect(notes).toHaveLength(3);
  });

  it('takes no answer for an empty list', () => {
    expect(readContainers(Buffer.from('<html>'), [])).toBeUndefined();
    expect(readNetworks({ message: 'no' }, [])).toBeUndefined();
  });

  it('makes unreadable labels broken ones, not none', () => {
    const notes: string[] = [];
    const [bad] = readContainers([listItem({ Labels: { 'drawbridge.allow': 7 } })], notes) ?? [];
    expect(bad?.labels).toBe(UNREADABLE_LABELS);
    expect(notes[0]).toContain('labels');
    expect(readContainers([listItem({ Labels: null })], [])?.[0]?.labels).toEqual({});
  });

  it('keeps labels with the names of object members', () => {
    const labels = JSON.parse('{"__proto__":"x","constructor":"y"}');
    const read = readContainers([listItem({ Labels: labels })], [])?.[0]?.labels ?? {};
    expect(Object.entries(read)).toEqual([
      ['__proto__', 'x'],
      ['constructor', 'y'],
    ]);
  });

  it('finds the own name among legacy link names, and a container between two runs is not up', () => {
    const [c] = readContainers([listItem({ Names: ['/app/db', '/db'], State: 'restarting' })], []) ?? [];
    expect(c).toMatchObject({ name: 'db', state: 'exited' });
  });

  it('a container that has no address yet has no endpoint', () => {
    const Networks = { front: { NetworkID: '', MacAddress: '', IPAddress: '', GlobalIPv6Address: '' } };
    expect(readContainers([listItem({ NetworkSettings: { Networks } })], [])?.[0]?.endpoints).toEqual([]);
  });
});

describe('container inspect', () => {
  it('reads privileges, ports and names', () => {
    const read = readInspect(containerInspect());
    expect(read?.privileges).toEqual({
      privileged: false,
      capAdd: ['NET_ADMIN', 'SYS_PTRACE'],
      capDrop: [],
      pidMode: 'host',
      binds: ['/var/run/docker.sock:/var/run/docker.sock', '/srv:/data:ro'],
      devices: ['/dev/net/tun'],
      dns: ['10.0.0.53'],
      pid: 4711,
      sandboxKey: '/var/run/docker/netns/0123456789ab',
      mounts: [
        { type: 'bind', name: '', source: '/srv', destination: '/data', isReadOnly: true },
        {
          type: 'volume',
          name: '',
          source: '/var/lib/docker/volumes/x/_data',
          destination: '/x',
          isReadOnly: false,
        },
      ],
      deviceRules: [],
      securityOpt: [],
      runtime: '',
      deviceRequests: [],
      hasOpenSystemPaths: false,
      cgroupParent: '',
    });
    expect(read?.published).toEqual([
      { proto: 'udp', containerPort: 53, hosts: [{ address: '', port: 53 }] },
      { proto: 'tcp', containerPort: 80, hosts: [{ address: '0.0.0.0', port: 8080 }] },
    ]);
    expect(read?.dnsNames.get(ID('f'))).toEqual(['web', 'www', 'aaaaaaaaaaaa']);
  });

  it('builds the names of engines before 25 from aliases', () => {
    const Networks = { front: { NetworkID: ID('f'), Aliases: ['www', 'aaaaaaaaaaaa'] } };
    const read = readInspect(containerInspect({ NetworkSettings: { Networks } }));
    expect(read?.dnsNames.get(ID('f'))).toEqual(['web', 'www', 'aaaaaaaaaaaa']);
  });

  it('tells unreadable image labels from none', () => {
    expect(readImageLabels({ Config: { Labels: null } })).toEqual({});
    expect(readImageLabels({ Config: { Labels: { a: 'b' } } })).toEqual({ a: 'b' });
    expect(readImageLabels({ Config: { Labels: { a: 1 } } })).toBeUndefined();
    expect(readImageLabels({})).toBeUndefined();
  });
});

describe('networks', () => {
  it('reads facts and members, and leaves out what is no container', () => {
    const read = readNetwork(networkInspect(), []);
    expect(read?.network).toEqual({
      id: ID('f'),
      name: 'front',
      driver: 'bridge',
      scope: 'local',
      bridge: `br-${'f'.repeat(12)}`,
      internal: false,
      ipv6: true,
      subnets: ['fd00:aa::/64', '172.18.0.0/16'],
      gateways: ['172.18.0.1'],
      labels: {},
      options: {},
    });
    expect([...(read?.members.keys() ?? [])]).toEqual([ID('a')]);
    expect(read?.members.get(ID('a'))).toMatchObject({
      mac: '02:42:ac:12:00:02',
      ip4: '172.18.0.2',
      ip6: 'fd00:aa::2',
    });
  });

  it('names the bridge by its option, and only bridges have one', () => {
    const Options = { 'com.docker.network.bridge.name': 'docker0' };
    expect(readNetwork(networkInspect({ Options }), [])?.network.bridge).toBe('docker0');
    expect(readNetwork(networkInspect({ Driver: 'macvlan' }), [])?.network.bridge).toBeUndefined();
  });

  it('has no endpoint on a bridge without a MAC, and says so', () => {
    const notes: string[] = [];
    const Containers = { [ID('a')]: { MacAddress: 'nonsense', IPv4Address: '172.18.0.2/16' } };
    expect(readNetwork(networkInspect({ Containers }), notes)?.members.size).toBe(0);
    expect(notes).toHaveLength(1);
    expect(readNetwork(networkInspect({ Containers, Driver: 'ipvlan' }), [])?.members.get(ID('a'))?.mac).toBe(
      '',
    );
  });
});

it.each([
  [{ SecurityOpt: ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'] }, { securityOpt: ['seccomp=profile'] }],
  [
    { SecurityOpt: ['seccomp:unconfined', 'label=disable'] },
    { securityOpt: ['seccomp=unconfined', 'label=disable'] },
  ],
  [
    { SecurityOpt: ['seccomp=builtin', 'no-new-privileges', 7] },
    { securityOpt: ['seccomp=builtin', 'no-new-privileges=true'] },
  ],
  [
    { SecurityOpt: null, Runtime: 'runsc' },
    { securityOpt: [], runtime: 'runsc' },
  ],
  [
    { DeviceRequests: [{ Driver: 'cdi', DeviceIDs: ['vendor.com/net=vf0'] }] },
    { deviceRequests: ['vendor.com/net=vf0'] },
  ],
  [
    { DeviceRequests: [{ Driver: '', Capabilities: [['gpu']] }, null] },
    { deviceRequests: ['gpu', 'unknown'] },
  ],
])('what the settings change of its confinement: %j', (HostConfig, expected) => {
  expect(readInspect(containerInspect({ HostConfig }))?.privileges).toMatchObject(expected);
});

it.each([
  [{ SecurityOptions: ['name=seccomp,profile=builtin'] }, 'builtin', false],
  [{ SecurityOptions: ['name=cgroupns', 'name=seccomp,profile=unconfined'] }, 'unconfined', false],
  [{ SecurityOptions: ['name=apparmor'], NRI: { Info: [['plugin-path', '/p']] } }, '', true],
])(
  'which seccomp profile the engine uses, and whether plugins change containers: %j',
  (info, seccomp, hasPlugins) => {
    expect(engineFacts(readDaemon(info))).toMatchObject({ seccomp, hasPlugins });
  },
);

it('reads the engine itself', () => {
  const info = {
    ServerVersion: '28.0.1',
    DockerRootDir: '/d',
    FirewallBackend: { Driver: 'nftables' },
    LiveRestoreEnabled: true,
  };
  expect(readDaemon(info)).toMatchObject({
    serverVersion: '28.0.1',
    rootDir: '/d',
    liveRestore: true,
    firewallBackend: 'nftables',
    swarm: false,
  });
});

describe('addresses', () => {
  it.each([
    ['02-42-AC-12-00-02', '02:42:ac:12:00:02'],
    ['02:42:ac:12:00', undefined],
    ['', undefined],
  ])('MAC %s', (text, mac) => expect(canonicalMac(text)).toBe(mac));
  it.each([
    ['172.18.0.2/16', '172.18.0.2'],
    ['010.0.0.1', undefined],
    ['127.1', undefined],
    ['FD00:0:0:AA::0002/64', 'fd00:0:0:aa::2'],
    ['fe80::1%eth0', undefined],
    ['', undefined],
  ])('address %s', (text, ip) => expect(canonicalIp(text)).toBe(ip));
  it('CIDR', () => {
    expect(canonicalCidr('FD00:AA:0::/64')).toBe('fd00:aa::/64');
    expect(canonicalCidr('10.0.0.0/33')).toBeUndefined();
    expect(canonicalCidr('10.0.0.0')).toBeUndefined();
  });
});

/** Good answers with any part replaced by anything. */
const damaged = (good: () => unknown) =>
  fc.tuple(fc.anything(), fc.array(fc.nat(), { maxLength: 6 })).map(([junk, path]) => {
    const root = { value: structuredClone(good()) };
    let at: Record<string, unknown> = root;
    let key = 'value';
    for (const step of path) {
      const next = at[key];
      if (typeof next !== 'object' || next === null) break;
      const keys = Object.keys(next);
      if (keys.length === 0) break;
      at = next as Record<string, unknown>;
      key = keys[step % keys.length] ?? '';
    }
    at[key] = junk;
    return root.value;
  });

describe('never throws', () => {
  it.each([
    ['container list', (json: unknown) => readContainers(json, []), () => [listItem()]],
    ['network list', (json: unknown) => readNetworks(json, []), () => [networkInspect()]],
    ['network', (json: unknown) => readNetwork(json, []), () => networkInspect()],
    ['container', (json: unknown) => readInspect(json), () => containerInspect()],
    ['image', (json: unknown) => readImageLabels(json), () => ({ Config: { Labels: { a: 'b' } } })],
    ['engine', (json: unknown) => readDaemon(json), () => ({ Swarm: {}, SecurityOptions: ['x'] })],
  ] as const)('%s', (_name, read, good) => {
    fc.assert(fc.property(fc.oneof(fc.anything(), fc.jsonValue(), damaged(good)), (json) => void read(json)));
  });

  it('and what comes out of a damaged network is well-formed', () => {
    fc.assert(
      fc.property(damaged(networkInspect), (json) => {
        for (const e of readNetwork(json, [])?.members.values() ?? []) {
          if (readNetwork(json, [])?.network.driver === 'bridge')
            expect(e.mac).toMatch(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
          if (e.ip4) expect(canonicalIp(e.ip4)).toBe(e.ip4);
        }
      }),
    );
  });
});
