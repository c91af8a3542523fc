/** Engine API answers in the shape of Docker 26.1 (API 1.45). */
export const ID = (digit: string): string => digit.repeat(64);

export function listItem(over: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    Id: ID('a'),
    Names: ['/web'],
    Image: 'shop:1',
    ImageID: `sha256:${ID('1')}`,
    Labels: { 'drawbridge.allow': 'a.example', name: 'forged' },
    State: 'running',
    Ports: [
      { IP: '0.0.0.0', PrivatePort: 80, PublicPort: 8080, Type: 'tcp' },
      { IP: '::', PrivatePort: 80, PublicPort: 8080, Type: 'tcp' },
      { PrivatePort: 90, Type: 'tcp' },
    ],
    HostConfig: { NetworkMode: 'front' },
    NetworkSettings: {
      Networks: {
        front: {
          NetworkID: ID('f'),
          MacAddress: '02:42:AC:12:00:02',
          IPAddress: '172.18.0.2',
          GlobalIPv6Address: 'FD00:aa:0:0::2',
          DNSNames: null,
        },
      },
    },
    ...over,
  };
}

export function networkInspect(over: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    Name: 'front',
    Id: ID('f'),
    Scope: 'local',
    Driver: 'bridge',
    EnableIPv6: true,
    IPAM: { Config: [{ Subnet: 'fd00:aa::/64' }, { Subnet: '172.18.0.0/16', Gateway: '172.18.0.1' }] },
    Internal: false,
    Containers: {
      [ID('a')]: {
        Name: 'web',
        MacAddress: '02:42:ac:12:00:02',
        IPv4Address: '172.18.0.2/16',
        IPv6Address: 'fd00:aa::2/64',
      },
      'lb-front': { Name: 'front-endpoint', MacAddress: '02:42:ac:12:00:09', IPv4Address: '172.18.0.9/16' },
    },
    Options: {},
    Labels: {},
    ...over,
  };
}

export function containerInspect(over: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    Id: ID('a'),
    Name: '/web',
    State: { Running: true, Pid: 4711 },
    HostConfig: {
      Privileged: false,
      CapAdd: ['CAP_NET_ADMIN', 'sys_ptrace'],
      PidMode: 'host',
      Binds: ['/var/run/docker.sock:/var/run/docker.sock'],
      Devices: [{ PathOnHost: '/dev/net/tun', PathInContainer: '/dev/net/tun' }],
      Dns: ['10.0.0.53'],
      CgroupParent: '',
      PortBindings: { '53/udp': [{ HostIp: '', HostPort: '53' }], '70/tcp': [] },
    },
    Mounts: [
      { Type: 'bind', Source: '/srv', Destination: '/data', RW: false },
      { Type: 'volume', Source: '/var/lib/docker/volumes/x/_data', Destination: '/x', RW: true },
    ],
    NetworkSettings: {
      SandboxKey: '/var/run/docker/netns/0123456789ab',
      Ports: { '80/tcp': [{ HostIp: '0.0.0.0', HostPort: '8080' }], '90/tcp': null },
      Networks: { front: { NetworkID: ID('f'), Aliases: ['www'], DNSNames: ['web', 'www', 'aaaaaaaaaaaa'] } },
    },
    ...over,
  };
}
