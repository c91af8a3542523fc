import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';

/** Names of drivers by major number, from /proc/devices. */
interface Drivers {
  readonly block: ReadonlyMap<number, string>;
  readonly char: ReadonlyMap<number, string>;
}
/** A device node of the host. */
export interface DeviceNode {
  /** The path in the container's settings. */
  readonly given: string;
  readonly path: string;
  readonly kind: 'block' | 'char';
  readonly major: number;
  readonly minor: number;
}
/** Undefined parts could not be read: names alone are compared then. */
export interface DeviceFacts {
  readonly drivers: Drivers | undefined;
  readonly nodes: readonly DeviceNode[];
}
type Privileges = NonNullable<ContainerFacts['privileges']>;
interface Kind {
  readonly code: string;
  readonly state: Finding['state'];
  readonly what: string;
  readonly meaning: string;
}

const TUN: Kind = {
  code: 'tun',
  state: 'partial',
  what: 'tunnels',
  meaning: 'it can build tunnels, and destinations that an allowed peer relays to are not evaluated',
};
const MEMORY: Kind = {
  code: 'memory-device',
  state: 'unenforced',
  what: 'the memory of the host',
  meaning: 'it can write the memory of the host',
};
const DISK: Kind = {
  code: 'disk-device',
  state: 'unenforced',
  what: 'disks',
  meaning: 'it can write a disk below its file system, and with that any file of the host',
};
const RDMA: Kind = {
  code: 'rdma-device',
  state: 'unenforced',
  what: 'RDMA hardware',
  meaning: 'what it sends by RDMA does not pass the network stack of the host',
};
const HARDWARE: Kind = {
  code: 'hardware-device',
  state: 'unenforced',
  what: 'hardware that is controlled from user space',
  meaning: 'it controls hardware itself, possibly a network card, and what that sends passes no rule',
};
const ALL: Kind = {
  code: 'all-devices',
  state: 'unenforced',
  what: 'every device',
  meaning: 'it has every device of the host, disks and memory included',
};

const NAMES: readonly (readonly [RegExp, Kind])[] = [
  [/^\/dev\/net(\/tun)?$/, TUN],
  [/^\/dev$/, ALL],
  [/^\/dev\/(mem|kmem|port)$/, MEMORY],
  [
    /^\/dev\/(sd|vd|xvd|hd|nvme|ng\d|dm-|md|mmcblk|loop|nbd|zd\d|zvol|zram|ram\d|rbd|drbd|bcache|pmem|dax|sg\d|sr\d|bsg|mtd|raw|cciss|disk|block|mapper\/)/,
    DISK,
  ],
  [/^\/dev\/infiniband(\/|$)/, RDMA],
  [/^\/dev\/(vfio|uio)/, HARDWARE],
];
/** Character devices by the name of their driver in /proc/devices. */
const DRIVERS: readonly (readonly [RegExp, Kind])[] = [
  [/^(sg|bsg|nvme|nvme-generic|raw|mtd|dax|st|osst|ch|megaraid.*|mpt\d*ctl)$/, DISK],
  [/^infiniband/, RDMA],
  [/^(uio|vfio)/, HARDWARE],
];
/** Majors that Linux has assigned permanently (Documentation/admin-guide/devices.txt), for the case that /proc/devices cannot be read. */
const MAJOR = { memory: 1, misc: 10, sg: 21, mtd: 90, raw: 162, infiniband: 231 } as const;
const MEMORY_MINORS = [1, 2, 4];
const MINOR = { tun: 200, vfio: 196 } as const;
const STATIC: ReadonlyMap<number, string> = new Map([
  [MAJOR.sg, 'sg'],
  [MAJOR.mtd, 'mtd'],
  [MAJOR.raw, 'raw'],
  [MAJOR.infiniband, 'infiniband'],
]);

/** Devices that the container may use, by what they are; what cannot be looked at, by its name. */
export function deviceFindings(p: Privileges, { drivers, nodes }: DeviceFacts): Finding[] {
  const known = new Set(nodes.map((n) => n.given));
  const byName = givenPaths(p)
    .filter((path) => !known.has(path))
    .flatMap((path) => NAMES.filter(([pattern]) => pattern.test(path)).map(([, kind]) => found(kind, path)));
  const byNumber = nodes.flatMap((n) =>
    kindsOf(n.kind, n.major, n.minor, drivers)
      .slice(0, 1)
      .map((kind) => found(kind, n.given === n.path ? n.path : `${n.given} (${n.path})`)),
  );
  return [
    ...byName,
    ...firstOfEach(byNumber),
    ...(p.deviceRules ?? []).flatMap((rule) => ruleFinding(rule, drivers)),
  ];
}

/** Of a folder with many disks one is enough. */
const firstOfEach = (found: readonly Finding[]): Finding[] =>
  found.filter((f, i) => found.findIndex((g) => g.code === f.code) === i);

/** Mounts count where they are /dev or /dev/net: nodes in them are devices only as far as the device cgroup lets. */
export function givenPaths(p: Privileges): readonly string[] {
  const mounted = p.binds
    .map((b) => b.split(':')[0] ?? '')
    .filter((s) => /^\/dev(\/net)?(\/tun)?\/?$/.test(s));
  return [...new Set([...p.devices, ...mounted].map((s) => s.replace(/(.)\/+$/, '$1')))];
}

const found = ({ code, state, meaning }: Kind, device: string): Finding => ({
  code,
  state,
  detail: `the container has the device ${device}: ${meaning}`,
  remedy: `do not give the container ${device.split(' ')[0]}`,
});

/** @param major null: every one */
function kindsOf(
  kind: 'block' | 'char',
  major: number | null,
  minor: number | null,
  drivers: Drivers | undefined,
): readonly Kind[] {
  if (kind === 'block') {
    const exists = major === null || (drivers?.block.has(major) ?? true);
    return exists ? [DISK] : [];
  }
  if (major === null) return [MEMORY, TUN, DISK];
  const has = (m: number): boolean => minor === null || minor === m;
  if (major === MAJOR.memory) return MEMORY_MINORS.some(has) ? [MEMORY] : [];
  if (major === MAJOR.misc) return [...(has(MINOR.tun) ? [TUN] : []), ...(has(MINOR.vfio) ? [HARDWARE] : [])];
  const name = (drivers?.char ?? STATIC).get(major);
  return name === undefined ? [] : DRIVERS.filter(([pattern]) => pattern.test(name)).map(([, k]) => k);
}

/** A rule of the device cgroup: what it opens the container may make for itself (mknod) and use. */
function ruleFinding(rule: string, drivers: Drivers | undefined): Finding[] {
  const [, type, major = '*', minor = '*', access = 'rwm'] =
    /^([abc])(?:\s+(\d+|\*):(\d+|\*)\s+([rwm]+))?\s*$/.exec(rule.trim()) ?? [];
  if (type === undefined) return [opened(rule, ['devices that Drawbridge cannot determine'], 'partial')];
  if (!/[rw]/.test(access)) return [];
  const [ma, mi] = [major, minor].map((n) => (n === '*' ? null : Number(n))) as [
    number | null,
    number | null,
  ];
  const kinds = (
    type === 'a' ? (['block', 'char'] as const) : ([type === 'b' ? 'block' : 'char'] as const)
  ).flatMap((k) => [...kindsOf(k, ma, mi, drivers)]);
  if (kinds.length === 0) return [];
  const state = kinds.some((k) => k.state === 'unenforced') ? 'unenforced' : 'partial';
  return [opened(rule, [...new Set(kinds.map((k) => k.what))], state)];
}

const opened = (rule: string, what: readonly string[], state: Finding['state']): Finding => ({
  code: 'device-rule',
  state,
  detail: `its device rule "${rule}" allows ${what.join(', ')}: the container can create the device node itself (mknod) and use it`,
  remedy: `remove "${rule}" from its device_cgroup_rules (--device-cgroup-rule), or name the one device that it needs`,
});

/** Driver names by major number, as /proc/devices lists them. */
interface DeviceDrivers {
  readonly block: ReadonlyMap<number, string>;
  readonly char: ReadonlyMap<number, string>;
}

export function parseDevices(text: string): DeviceDrivers {
  const [chars = '', blocks = ''] = text.split(/^Block devices:$/m);
  const read = (part: string): ReadonlyMap<number, string> =>
    new Map([...part.matchAll(/^\s*(\d+) (\S+)$/gm)].map((m) => [Number(m[1]), m[2] ?? '']));
  return { block: read(blocks), char: read(chars) };
}

/** Device numbers of a node (makedev(3), as in the kernel's new_encode_dev). */
export const majorOf = (rdev: number): number => Math.floor(rdev / 256) % 4096;
export const minorOf = (rdev: number): number => (rdev % 256) + Math.floor(rdev / 1_048_576) * 256;
