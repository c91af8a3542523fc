import { describe, expect, it } from 'vitest';
import { pidFindings } from '../../../src/coverage/container-findings.js';
import { deviceFindings, majorOf, minorOf, parseDevices } from '../../../src/coverage/device-findings.js';
import { mountFindings } from '../../../src/coverage/mount-findings.js';
import {
  type HostPlace,
  type MountFacts,
  type OwnPlaces,
  placesOf,
} from '../../../src/coverage/sensitive-places.js';
import { holds, MountTable, parseMountInfo } from '../../../src/kernel/mount-info.js';
import { listeningSockets } from '../../../src/kernel/sockets.js';
import type { ContainerFacts, ListedMount } from '../../../src/policy/container.js';
import type { Finding } from '../../../src/policy/finding.js';

const ID = 'a'.repeat(64);
const OWN: OwnPlaces = {
  dockerSocket: '/var/run/docker.sock',
  apiSocket: '/run/drawbridge/api.sock',
  state: '/var/lib/drawbridge',
  allowlists: '/etc/drawbridge/allowlists',
  storeSocket: '/run/redis/redis.sock',
};
const PLAIN: NonNullable<ContainerFacts['privileges']> = {
  privileged: false,
  capAdd: [],
  pidMode: '',
  binds: [],
  devices: [],
  dns: [],
  pid: 1,
  sandboxKey: '',
};
/** A host with /run on a tmpfs and Docker's data on a disk of its own. */
const HOST = new MountTable(
  parseMountInfo(
    [
      '22 27 0:21 / /proc rw - proc proc rw',
      '23 27 0:22 / /sys rw - sysfs sysfs rw',
      '27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw',
      '28 27 0:25 / /run rw shared:2 - tmpfs tmpfs rw',
      '29 27 8:1 /docker /var/lib/docker rw - ext4 /dev/sda1 rw',
      String.raw`30 27 0:60 / /mnt/with\040space rw - fuse.sshfs x rw`,
    ].join('\n'),
  ),
);
const EXISTING = new Map([
  ['/var/run/docker.sock', '/run/docker.sock'],
  ['/run/containerd/containerd.sock', '/run/containerd/containerd.sock'],
  ['/run/redis/redis.sock', '/run/redis/redis.sock'],
  ['/etc/cron.d', '/etc/cron.d'],
  ['/etc', '/etc'],
  ['/usr', '/usr'],
  ['/bin', '/usr/bin'],
  ['/root', '/root'],
  ['/proc', '/proc'],
  ['/root/.ssh', '/root/.ssh'],
  ['/', '/'],
  ['/var/lib/docker', '/var/lib/docker'],
  ['/var/lib/drawbridge', '/var/lib/drawbridge'],
]);

function facts(mountinfo: string): MountFacts {
  const places = placesOf(OWN, { dataRoot: '/var/lib/docker', sockets: [] }).flatMap((p): HostPlace[] => {
    const path = EXISTING.get(p.path);
    const location = path === undefined ? undefined : HOST.locate(path);
    return location
      ? [{ ...p, location, ...(p.by === 'connect' ? { inode: `7:${p.path.length}` } : {}) }]
      : [];
  });
  const mounted = parseMountInfo(mountinfo).map((m) => {
    const location = { device: m.device, path: m.root };
    const path = HOST.pathOf(location) ?? '?';
    return { destination: m.point, path, location, isReadOnly: m.isReadOnly, type: m.type };
  });
  return { mounted, places, dataRoot: HOST.locate('/var/lib/docker') };
}
function found(
  mountinfo: string,
  mounts: readonly ListedMount[] = [],
  networkMode = 'bridge',
): readonly Finding[] {
  const c = { id: ID, networkMode, privileges: { ...PLAIN, mounts } };
  return mountFindings(c, OWN, facts(mountinfo));
}
const codes = (list: readonly Finding[]): string[] => list.map((f) => `${f.code}:${f.state}`);

const CHANGES: Readonly<Record<string, (c: Subject) => Subject>> = {
  'its id': (c) => ({ ...c, id: '9'.repeat(64) }),
  'its network mode': (c) => ({ ...c, networkMode: 'host' }),
  'the container that it shares a network with': (c) => ({ ...c, sharesWith: '8'.repeat(64) }),
  'its privileges': (c) => ({ ...c, privileges: { ...PLAIN, mounts: [] } }),
};
type Subject = Parameters<typeof mountFindings>[0];
for (const [what, change] of Object.entries(CHANGES))
  it(`computes the findings of mounts again after a change of: ${what}`, () => {
    const known = facts(`1 0 8:1 /etc /host rw - ext4 d rw`);
    const c: Subject = { id: ID, networkMode: 'bridge', privileges: PLAIN };
    const before = mountFindings(c, OWN, known);
    expect(mountFindings(c, OWN, known)).toBe(before);
    expect(mountFindings({ ...c }, OWN, known)).toBe(before);
    expect(mountFindings(change(c), OWN, known)).not.toBe(before);
    expect(mountFindings(c, OWN, { ...known })).not.toBe(before);
  });

describe('mounts, by file system and path in it', () => {
  it('a path is located through bind mounts and back', () => {
    expect(HOST.locate('/run/docker.sock')).toEqual({ device: '0:25', path: '/docker.sock' });
    expect(HOST.locate('/var/lib/docker/volumes')).toEqual({ device: '8:1', path: '/docker/volumes' });
    expect(HOST.pathOf({ device: '8:1', path: '/docker/volumes' })).toBe('/var/lib/docker/volumes');
    expect(HOST.pathOf({ device: '254:0', path: '/run/docker.sock' })).toBeUndefined();
    expect(HOST.pathOf({ device: '8:1', path: '/other' })).toBeUndefined();
    expect(HOST.mountOf('/mnt/with space/x')?.type).toBe('fuse.sshfs');
    expect(holds({ device: '0:25', path: '/' }, { device: '0:26', path: '/x' })).toBe(false);
    expect(parseMountInfo('garbage\n\n1 2 3')).toEqual([]);
  });

  it.each<[string, string[]]>([
    ['1 2 0:25 /docker.sock /s ro - tmpfs t rw', ['docker-socket:unenforced']],
    [
      '1 2 0:25 / /x ro - tmpfs t rw',
      ['docker-socket:unenforced', 'store-socket:unenforced', 'runtime-socket:unenforced'],
    ],
    ['1 2 0:25 /redis /x ro - tmpfs t rw', ['store-socket:unenforced']],
    ['1 2 0:25 /containerd /x ro - tmpfs t rw', ['runtime-socket:unenforced']],
    // Another tmpfs that has a file of that name is not the host's.
    ['1 2 0:99 /docker.sock /s rw - tmpfs t rw', []],
    ['1 2 254:0 /etc/cron.d /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /etc/cron.d/mine /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /etc/cron.d /x ro - ext4 d rw', []],
    ['1 2 254:0 /etc/cron.d /x rw - ext4 d ro', []],
    ['1 2 254:0 /etc/letsencrypt /x rw - ext4 d rw', []],
    ['1 2 254:0 /etc /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /usr/bin /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /root /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /root/.ssh /x rw - ext4 d rw', ['host-files:partial']],
    ['1 2 254:0 /root/shop/data /x rw - ext4 d rw', []],
    ['1 2 254:0 /srv /x rw - ext4 d rw', []],
    ['1 2 254:0 / /x rw - ext4 d rw', ['host-files:partial', 'own-files:unenforced']],
    ['1 2 8:1 /docker /x rw - ext4 d rw', ['engine-files:unenforced']],
    ['1 2 8:1 /docker/containers /x rw - ext4 d rw', ['engine-files:unenforced']],
    ['1 2 8:1 / /x rw - ext4 d rw', ['engine-files:unenforced']],
    ['1 2 8:1 /docker /x ro - ext4 d rw', []],
    ['1 2 8:1 /docker/volumes/v/_data /x rw - ext4 d rw', []],
    [`1 2 8:1 /docker/containers/${ID}/hosts /etc/hosts rw - ext4 d rw`, []],
    [`1 2 8:1 /docker/containers/${'b'.repeat(64)}/hosts /x rw - ext4 d rw`, ['engine-files:unenforced']],
    ['1 2 0:21 / /host/proc ro - proc p rw', ['host-proc:partial']],
    ['1 2 0:21 / /host/proc rw - proc p rw', ['host-files:partial', 'host-proc:partial']],
    ['1 2 0:21 /sys /x rw - proc p rw', ['host-files:partial']],
    ['1 2 0:77 / /x rw - proc p rw', []],
    ['1 2 0:30 / /x rw - cgroup2 c rw', ['host-files:partial']],
    ['1 2 0:60 / /x rw - fuse.sshfs s rw', ['unknown-mount:enforced']],
  ])('%s', (mountinfo, expected) => {
    expect(codes(found(mountinfo))).toEqual(expected);
  });

  it('the cgroup file system in hand is the way out of host mode', () => {
    expect(codes(found('1 2 0:30 / /x rw - cgroup2 c rw', [], 'host'))).toEqual(['cgroup-files:unenforced']);
    expect(codes(found('1 2 0:30 / /x ro - cgroup2 c rw', [], 'host'))).toEqual([]);
  });

  it('the reason names what the operator wrote and what it leads to', () => {
    const volume = { type: 'volume', name: 'innocent', source: '/d', destination: '/x', isReadOnly: false };
    const [first] = found('1 2 0:25 / /x rw - tmpfs t rw', [volume]);
    expect(first?.detail).toContain(
      'the container can reach the Docker socket through its mount of volume innocent (/run)',
    );
    const link = { type: 'bind', name: '', source: '/srv/link', destination: '/s', isReadOnly: false };
    const [second] = found('1 2 0:25 /docker.sock /s rw - tmpfs t rw', [link]);
    expect(second?.detail).toContain('through its mount of /srv/link (/run/docker.sock)');
    const [plain] = found('1 2 254:0 /root /x rw - ext4 d rw');
    expect(plain?.detail).toBe(
      'the container can write /root of the host, with /root/.ssh: it controls what the host runs from there',
    );
  });

  it('who shares a network has the files of the other, too', () => {
    const line = `1 2 8:1 /docker/containers/${'b'.repeat(64)}/hosts /etc/hosts rw - ext4 d rw`;
    const c = { id: ID, networkMode: 'container:b', sharesWith: 'b'.repeat(64), privileges: PLAIN };
    expect(mountFindings(c, OWN, facts(line))).toEqual([]);
  });

  it('a hard link to a socket is the socket', () => {
    const { mounted, places, dataRoot } = facts('1 2 0:25 /other.sock /s rw - tmpfs t rw');
    const inode = places.find((p) => p.code === 'docker-socket')?.inode ?? '';
    const linked = mounted.map((m) => ({ ...m, inode }));
    const c = { id: ID, networkMode: 'bridge', privileges: PLAIN };
    expect(codes(mountFindings(c, OWN, { mounted, places, dataRoot }))).toEqual([]);
    expect(codes(mountFindings(c, OWN, { mounted: linked, places, dataRoot }))).toEqual([
      'docker-socket:unenforced',
    ]);
  });

  it('what has not been read, or cannot be, is said', () => {
    const c = { id: ID, networkMode: 'bridge', privileges: { ...PLAIN, binds: ['/run/docker.sock:/s'] } };
    expect(codes(mountFindings(c, OWN, 'unread'))).toEqual([
      'docker-socket:unenforced',
      'mounts-unread:partial',
    ]);
    const [, why] = mountFindings(c, OWN, { failure: 'EACCES' });
    expect(why?.detail).toContain('EACCES');
  });
});

describe('devices', () => {
  const drivers = parseDevices(
    'Character devices:\n  1 mem\n 10 misc\n 21 sg\n240 nvme-generic\n241 infiniband_verbs\n188 ttyUSB\n\nBlock devices:\n  8 sd\n259 blkext\n',
  );
  const rule = (text: string): string[] =>
    codes(deviceFindings({ ...PLAIN, deviceRules: [text] }, { drivers, nodes: [] }));

  it.each<[string, string[]]>([
    ['b *:* rmw', ['device-rule:unenforced']],
    ['a *:* rwm', ['device-rule:unenforced']],
    ['a', ['device-rule:unenforced']],
    ['c *:* rw', ['device-rule:unenforced']],
    ['b 8:* r', ['device-rule:unenforced']],
    ['b 8:0 w', ['device-rule:unenforced']],
    ['b 8:0 m', []],
    ['b 43:* rwm', []], // no nbd on this host
    ['c 1:* rwm', ['device-rule:unenforced']],
    ['c 1:1 r', ['device-rule:unenforced']],
    ['c 1:3 rwm', []],
    ['c 10:200 rwm', ['device-rule:partial']],
    ['c 10:* rwm', ['device-rule:unenforced']],
    ['c 10:229 rwm', []],
    ['c 21:* rwm', ['device-rule:unenforced']],
    ['c 240:0 rwm', ['device-rule:unenforced']],
    ['c 241:* rwm', ['device-rule:unenforced']],
    ['c 188:* rwm', []],
    ['x 1:1', ['device-rule:partial']],
  ])('rule %s', (text, expected) => {
    expect(rule(text)).toEqual(expected);
  });

  it('nodes count by their numbers, whatever they are called', () => {
    const node = (given: string, kind: 'block' | 'char', major: number, minor: number) =>
      codes(
        deviceFindings(
          { ...PLAIN, devices: [given] },
          { drivers, nodes: [{ given, path: '/dev/x', kind, major, minor }] },
        ),
      );
    expect(node('/dev/disk/by-id/wwn-1', 'block', 8, 0)).toEqual(['disk-device:unenforced']);
    expect(node('/srv/mydisk', 'block', 259, 1)).toEqual(['disk-device:unenforced']);
    expect(node('/dev/ng0n1', 'char', 240, 0)).toEqual(['disk-device:unenforced']);
    expect(node('/dev/infiniband/uverbs0', 'char', 241, 0)).toEqual(['rdma-device:unenforced']);
    expect(node('/dev/sd-card-reader-tty', 'char', 188, 0)).toEqual([]);
    expect([majorOf(0x10301), minorOf(0x10301)]).toEqual([259, 1]);
  });

  it.each([
    '/dev/disk/by-id/x',
    '/dev/sg0',
    '/dev/ng0n1',
    '/dev/nbd0',
    '/dev/zd0',
    '/dev/zvol/tank/x',
    '/dev/bsg/0:0:0:0',
    '/dev/sr0',
  ])('by name where it cannot be looked at: %s', (path) => {
    expect(codes(deviceFindings({ ...PLAIN, devices: [path] }, { drivers: undefined, nodes: [] }))).toEqual([
      'disk-device:unenforced',
    ]);
  });

  it.each(['/dev/snd', '/dev/dri', '/dev/ttyUSB0', '/dev/null', '/dev/fuse', '/dev/kvm'])(
    'harmless: %s',
    (path) => {
      expect(deviceFindings({ ...PLAIN, devices: [path] }, { drivers: undefined, nodes: [] })).toEqual([]);
    },
  );
});

it('a shared PID namespace is as good as the worst in it', () => {
  const state = (mode: 'enforce' | 'observe' | 'off', network: Finding['state'] = 'enforced') =>
    codes(pidFindings('enforce', [{ name: 'x', mode, network }]));
  expect(state('observe')).toEqual(['shared-pid:unenforced']);
  expect(state('off')).toEqual(['shared-pid:unenforced']);
  expect(state('enforce')).toEqual(['shared-pid:partial']);
  expect(state('enforce', 'unenforced')).toEqual(['shared-pid:unenforced']);
  expect(pidFindings('observe', [{ name: 'x', mode: 'off', network: 'enforced' }])).toEqual([]);
});

it('listening sockets are read from /proc/net/unix', () => {
  const text = [
    'Num       RefCount Protocol Flags    Type St Inode Path',
    '0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/docker.sock',
    '0000000000000000: 00000003 00000000 00000000 0001 03 1235 /run/docker.sock',
    '0000000000000000: 00000002 00000000 00010000 0001 01 1236 @abstract',
    '0000000000000000: 00000002 00000000 00010000 0001 01 1237',
  ].join('\n');
  expect([...listeningSockets(text)]).toEqual([['1234', '/run/docker.sock']]);
});
