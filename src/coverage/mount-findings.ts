import { holds, isWithin, type Location } from '../kernel/mount-info.js';
import type { ContainerFacts, ListedMount } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import {
  type HostPlace,
  type Mounted,
  type MountFacts,
  type OwnPlaces,
  placesOf,
} from './sensitive-places.js';

/** unread: not yet; else why they cannot be read. */
export type MountsKnown = MountFacts | { readonly failure: string } | 'unread';

const SHOWN = 3;
/** Writable, each of them is a lever of the kernel itself. */
const KERNEL_FILES = new Set([
  'proc',
  'sysfs',
  'cgroup',
  'cgroup2',
  'debugfs',
  'tracefs',
  'bpf',
  'configfs',
  'securityfs',
]);
const FUSE = /^fuse(blk)?($|\.)/;

type Subject = Pick<ContainerFacts, 'id' | 'privileges' | 'networkMode' | 'sharesWith'>;

/** Findings, and what of the container they were computed from. */
interface Found extends Subject {
  readonly findings: readonly Finding[];
}
const computed = new WeakMap<MountFacts, Found>();

/**
 * What is mounted from the host and opens a way past the rules. Mounts that have been read give the same findings again while all
 * that they are computed from is the same: the mounts, the places of the host and the data root (one object, which is replaced
 * when one of them changes), the container's id and network mode, the container that it shares a network with, and its privileges,
 * with the mounts that Docker lists. The places of the configuration (`own`) have no part in it once the host has been read.
 */
export function mountFindings(
  c: Subject,
  own: OwnPlaces,
  known: MountsKnown | undefined,
): readonly Finding[] {
  if (typeof known !== 'object' || 'failure' in known) return unreadFindings(c, own, known);
  const before = computed.get(known);
  const isSame =
    before?.id === c.id &&
    before.privileges === c.privileges &&
    before.networkMode === c.networkMode &&
    before.sharesWith === c.sharesWith;
  if (before && isSame) return before.findings;
  const { id, privileges, networkMode, sharesWith } = c;
  const findings = evaluate(c, known, listedMounts(privileges));
  const shared = sharesWith === undefined ? {} : { sharesWith };
  computed.set(known, { id, networkMode, findings, ...shared, ...(privileges && { privileges }) });
  return findings;
}

/** Until the kernel has been asked, paths are compared as they are written. */
function unreadFindings(
  c: Subject,
  own: OwnPlaces,
  known: Exclude<MountsKnown, MountFacts> | undefined,
): readonly Finding[] {
  const listed = listedMounts(c.privileges);
  if (known === undefined) return evaluate(c, textual(listed, own), listed);
  if (known === 'unread') return [...evaluate(c, textual(listed, own), listed), UNREAD];
  return [...evaluate(c, textual(listed, own), listed), unreadable(known.failure)];
}

function evaluate(
  c: Pick<ContainerFacts, 'id' | 'networkMode' | 'sharesWith'>,
  { mounted, places, dataRoot }: MountFacts,
  listed: readonly ListedMount[],
): Finding[] {
  const foreign = mounted.filter((m) => !isOwn(m.location, dataRoot, c));
  const found = foreign.flatMap((m) => {
    const shown = shownAs(m, listed);
    return [
      ...connects(m, shown, places),
      ...writes(m, shown, places),
      ...kernelFiles(m, shown, c, places),
      ...unknown(m, shown),
    ];
  });
  return found.filter((f, i) => found.findIndex((g) => g.code === f.code && g.detail === f.detail) === i);
}

/**
 * Docker's data root has volumes and the files that Docker makes for each container: only those are the container's. One
 * that shares a network has the other's hosts, hostname and resolv.conf.
 */
function isOwn(
  at: Location,
  root: Location | undefined,
  { id, sharesWith }: Pick<ContainerFacts, 'id' | 'sharesWith'>,
): boolean {
  if (!root || !holds(root, at)) return false;
  const rest = at.path.slice(root.path === '/' ? 0 : root.path.length);
  const [, owner] =
    /^\/containers\/([0-9a-f]{64})\/(hostname|hosts|resolv\.conf|mounts\/.*)$/.exec(rest) ?? [];
  return (
    (owner !== undefined && (owner === id || owner === sharesWith)) ||
    /^\/volumes\/[^/]+\/_data(\/|$)/.test(rest) ||
    /^\/plugins\/[^/]+\/propagated-mount(\/|$)/.test(rest)
  );
}

/** As the operator wrote it, with what it leads to where that is another path. */
function shownAs(m: Mounted, listed: readonly ListedMount[]): string {
  const from = listed
    .filter((t) => isWithin(t.destination, m.destination))
    .sort((a, b) => b.destination.length - a.destination.length)[0];
  if (!from) return m.path;
  const source = from.type === 'volume' ? `volume ${from.name}` : canonical(from.source);
  const rest = m.destination.slice(from.destination.length);
  return `${source}${rest}` === m.path || source === m.path ? m.path : `${source}${rest} (${m.path})`;
}

function connects(m: Mounted, shown: string, places: readonly HostPlace[]): Finding[] {
  return places
    .filter((p) => p.by === 'connect')
    .filter(
      (p) => holds(m.location, p.location) || (p.isDeep && holds(p.location, m.location)) || isSame(m, p),
    )
    .map(({ code, state, what, meaning, path, location }) => {
      const isItself = shown === path || (shown === m.path && location.path === m.location.path);
      return {
        code,
        state,
        detail: `the container can reach ${what}${isItself ? '' : ` through its mount of ${shown}`}: ${meaning}`,
        remedy: isItself
          ? `do not mount ${shown} into the container`
          : `do not mount ${shown} into the container, or mount a smaller part of it`,
      };
    });
}

/** A hard link has another path. */
const isSame = (m: Mounted, p: HostPlace): boolean => m.inode !== undefined && m.inode === p.inode;

function writes(m: Mounted, shown: string, places: readonly HostPlace[]): Finding[] {
  if (m.isReadOnly) return [];
  const hit = places
    .filter((p) => p.by === 'write')
    .filter(
      (p) => holds(m.location, p.location) || (p.isDeep && holds(p.location, m.location)) || isSame(m, p),
    );
  return [...new Set(hit.map((p) => p.code))].flatMap((code) => {
    const same = hit.filter((p) => p.code === code);
    return code === 'host-files'
      ? [hostFiles(m, shown, same)]
      : same.slice(0, 1).map((p) => keptFiles(p, shown));
  });
}

function hostFiles(m: Mounted, shown: string, hit: readonly HostPlace[]): Finding {
  const inside = hit.filter((p) => p.location.path !== m.location.path && holds(m.location, p.location));
  const names = inside.slice(0, SHOWN).map((p) => p.path);
  const more = inside.length > SHOWN ? ` and ${inside.length - SHOWN} more` : '';
  const what = names.length > 0 ? `, with ${names.join(', ')}${more}` : '';
  return {
    code: 'host-files',
    state: 'partial',
    detail: `the container can write ${shown} of the host${what}: it controls what the host runs from there`,
    remedy: `mount ${shown} read-only, or mount a smaller part of it`,
  };
}

const keptFiles = (p: HostPlace, shown: string): Finding => ({
  code: p.code,
  state: p.state,
  detail: `the container can write ${shown}, and ${p.path} is where ${p.what}: ${p.meaning}`,
  remedy: `do not mount ${shown} into the container, or mount it read-only`,
});

/** Each has a file system of its own, below the host's /proc and /sys. */
function kernelFiles(
  m: Mounted,
  shown: string,
  c: Pick<ContainerFacts, 'networkMode'>,
  places: readonly HostPlace[],
): Finding[] {
  // The proc file system of another PID namespace is another file system.
  const host = places.find((p) => p.path === '/proc')?.location;
  if (m.type === 'proc' && host && holds(m.location, host))
    return [
      {
        code: 'host-proc',
        state: 'partial',
        detail: `the container sees the processes of the host (its mount of ${shown}): their environment and files, as far as its user may read them`,
        remedy: `do not mount ${shown} into the container`,
      },
    ];
  if (m.isReadOnly || !KERNEL_FILES.has(m.type) || m.type === 'proc') return [];
  const leaves = c.networkMode === 'host' && m.type.startsWith('cgroup');
  if (leaves)
    return [
      {
        code: 'cgroup-files',
        state: 'unenforced',
        detail: `the container can write ${shown}: in the host network it is identified by its cgroup, and it can move its processes to another one`,
        remedy: `mount ${shown} read-only`,
      },
    ];
  return [
    {
      code: 'host-files',
      state: 'partial',
      detail: `the container can write ${shown} of the host (${m.type}): it can change settings of the kernel, and may take over the host by them`,
      remedy: `mount ${shown} read-only, or mount a smaller part of it`,
    },
  ];
}

/** A FUSE daemon decides which files it shows. */
function unknown(m: Mounted, shown: string): Finding[] {
  if (!FUSE.test(m.type)) return [];
  return [
    {
      code: 'unknown-mount',
      state: 'enforced',
      detail: `its mount of ${shown} is a ${m.type} file system: Drawbridge cannot know which files it shows`,
      remedy: 'make sure that it shows no files that the host runs or reads its settings from',
    },
  ];
}

const UNREAD: Finding = {
  code: 'mounts-unread',
  state: 'partial',
  detail: 'the mounts of the container have not been read yet',
  remedy: 'check again in a moment',
};
const unreadable = (why: string): Finding => ({
  ...UNREAD,
  detail: `the mounts of the container cannot be read (${why}): symbolic links and volumes are not followed`,
  remedy: 'run Drawbridge in the PID namespace of the host (pid: host)',
});

/** Sockets of programs that few hosts have: only where they exist. */
const RARE = /^\/var\/(lib|snap)\//;
/** Before the kernel has been asked: paths are compared as they are written. */
function textual(listed: readonly ListedMount[], own: OwnPlaces): MountFacts {
  const at = (path: string): Location => ({ device: '', path: canonical(path) });
  return {
    mounted: listed
      .filter((t) => t.source.startsWith('/') && t.type !== 'volume')
      .map((t) => ({
        destination: t.destination,
        path: canonical(t.source),
        location: at(t.source),
        isReadOnly: t.isReadOnly,
        type: '',
      })),
    places: placesOf(own, undefined)
      .filter((p) => !p.path.includes('*') && (p.by !== 'connect' || mayBeThere(p.path, listed, own)))
      .map((p) => ({ ...p, path: canonical(p.path), location: at(p.path) })),
    dataRoot: undefined,
  };
}

/**
 * A socket that the configuration names, or that is mounted itself, counts as it is written. Others count through a mount of
 * a folder above them: only where they exist, as far as that can be found out.
 */
function mayBeThere(path: string, listed: readonly ListedMount[], own: OwnPlaces): boolean {
  const named = [own.dockerSocket, own.apiSocket, own.storeSocket].includes(path);
  if (named || listed.some((t) => canonical(t.source) === canonical(path))) return true;
  return own.exists?.(path) ?? !RARE.test(path);
}

/** Docker's list of mounts, completed by the binds for engines that do not report the list. */
export function listedMounts(p: ContainerFacts['privileges']): readonly ListedMount[] {
  const listed = p?.mounts ?? [];
  const bound = (p?.binds ?? []).map(parseBind);
  return [...listed, ...bound.filter((b) => !listed.some((t) => t.destination === b.destination))];
}

function parseBind(text: string): ListedMount {
  const [source = '', destination = '', mode = ''] = text.split(':');
  const type = source.startsWith('/') ? 'bind' : 'volume';
  return { type, name: source, source, destination, isReadOnly: mode.split(',').includes('ro') };
}

/** /var/run is a link to /run on every system that has both. */
function canonical(path: string): string {
  const plain = path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
  return plain === '/var/run' || plain.startsWith('/var/run/') ? plain.slice('/var'.length) : plain;
}
