/** One file a lab, written before anything of the lab exists, so that whoever comes later can remove all of it. */
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { EngineVersion } from './packaged-engine.js';
import { startTime } from './process.js';

export const LABS = '/tmp/drawbridge-labs';
const MEMORY = '/dev/shm';
const TMPFS_MAGIC = 0x01021994;
const ENOUGH_BYTES = 6 * 2 ** 30;
/** Decided by its size, which stays the same: each process finds the folder of a lab. */
function isMemoryLarge(): boolean {
  if (!existsSync(MEMORY)) return false;
  const { type, blocks, bsize } = statfsSync(MEMORY);
  return type === TMPFS_MAGIC && blocks * bsize >= ENOUGH_BYTES;
}
/**
 * The folders of labs: in memory where there is enough of it, because dockerd and containerd synchronise their files with the disk several
 * times for each container, which takes a third of their processor time.
 */
const FOLDERS = isMemoryLarge() ? join(MEMORY, 'drawbridge-labs') : LABS;
/** Where `/tmp` is in memory, this is not. */
const ON_DISK = '/var/tmp/drawbridge-labs';

export interface LabRecord {
  readonly name: string;
  readonly dir: string;
  readonly hostNetns: string;
  readonly netNetns: string;
  /** Beyond NET, when a test has asked for it. */
  readonly farNetns: string;
  /** Parent of the containers' cgroups, below every controller's root. */
  readonly cgroup: string;
  /** Who made it; null: it belongs to nobody and stays until `down`. */
  readonly owner: { readonly pid: number; readonly start: string } | null;
  /** Process that keeps the mount view, once it runs. */
  readonly anchor?: number;
  readonly dns: 'direct' | 'loopback';
  readonly iptables: 'nft' | 'legacy';
  readonly engine: EngineVersion;
}

const file = (name: string): string => join(LABS, `${name}.json`);

export function newRecord(
  name: string,
  {
    onDisk,
    ...how
  }: Pick<LabRecord, 'dns' | 'iptables' | 'engine' | 'owner'> & { readonly onDisk?: boolean },
): LabRecord {
  if (!/^[a-z0-9][a-z0-9-]{0,40}$/.test(name)) {
    throw new Error(`lab name "${name}": use 1-41 of a-z, 0-9 and "-", beginning with a letter or digit`);
  }
  return {
    name,
    dir: join(onDisk ? ON_DISK : FOLDERS, name),
    hostNetns: `dbl-${name}-host`,
    netNetns: `dbl-${name}-net`,
    farNetns: `dbl-${name}-far`,
    cgroup: `drawbridge-lab-${name}`,
    ...how,
  };
}

export function claim(record: LabRecord): void {
  for (const folder of [LABS, dirname(record.dir)]) mkdirSync(folder, { recursive: true });
  const draft = `${file(record.name)}.${process.pid}.claim`;
  writeFileSync(draft, JSON.stringify(record));
  try {
    linkSync(draft, file(record.name)); // whole or not at all, and never over another's
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EEXIST') throw e;
    const remedy = `scripts/lab down ${record.name}, or choose another name`;
    throw new Error(`lab "${record.name}" stands already: ${remedy}`);
  } finally {
    rmSync(draft, { force: true });
  }
}
export function save(record: LabRecord): void {
  const next = `${file(record.name)}.${process.pid}.tmp`;
  writeFileSync(next, JSON.stringify(record));
  renameSync(next, file(record.name));
}
export function forget(name: string): void {
  rmSync(file(name), { force: true });
}
export function load(name: string): LabRecord | undefined {
  try {
    return JSON.parse(readFileSync(file(name), 'utf8')) as LabRecord;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw e;
  }
}
export function all(): LabRecord[] {
  mkdirSync(LABS, { recursive: true });
  const names = readdirSync(LABS).filter((f) => f.endsWith('.json'));
  return names.flatMap((f) => load(f.slice(0, -'.json'.length)) ?? []);
}

export const me = (): { pid: number; start: string } => ({
  pid: process.pid,
  start: startTime(process.pid) ?? '',
});
/** The process that made it has gone without taking it down. */
export const orphaned = (r: LabRecord): boolean =>
  r.owner !== null && startTime(r.owner.pid) !== r.owner.start;
