/** Removes all that a lab's record names, whatever state its maker left it in. Each step bears that its thing is gone. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { askDocker } from './docker-exec.js';
import { end, namespaceOf, processesIn, run, waitFor } from './process.js';
import { all, forget, type LabRecord, load, me, newRecord, orphaned, save } from './registry.js';
import { removeNamespace } from './topology.js';

/** Before the engine stops: containers outlive it. */
async function removeContainers(dir: string): Promise<void> {
  const socket = join(dir, 'docker.sock');
  if (!existsSync(socket)) return;
  // of an engine that has gone, endProcesses ends them
  const list = await askDocker(socket, 'GET', '/containers/json?all=1', { timeoutMs: 10_000 }).catch(
    () => undefined,
  );
  const found = JSON.parse(list?.toString() ?? '[]') as { readonly Id: string }[];
  const remove = ({ Id }: { readonly Id: string }): Promise<Buffer> =>
    askDocker(socket, 'DELETE', `/containers/${Id}?force=1`, { timeoutMs: 60_000 });
  await Promise.allSettled(found.map(remove));
}

function cgroupFolders(cgroup: string): string[] {
  const roots = readdirSync('/sys/fs/cgroup', { withFileTypes: true }).filter((d) => d.isDirectory());
  const folders = roots.map((d) => join('/sys/fs/cgroup', d.name, cgroup));
  return [...folders, join('/sys/fs/cgroup', cgroup)].filter((f) => existsSync(f));
}
/** None where another has removed the folder meanwhile: labs that start at once may take down the same one. */
function children(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries.filter((d) => d.isDirectory()).map((d) => join(folder, d.name));
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw e;
  }
}

function tryRemoveCgroup(folder: string): boolean {
  try {
    for (const child of children(folder)) tryRemoveCgroup(child);
    rmdirSync(folder);
    return true;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return true;
    if ((e as NodeJS.ErrnoException).code === 'EBUSY') return false; // a killed process is still on its way out
    throw e;
  }
}

async function cgroupProcesses(folder: string): Promise<number[]> {
  const { stdout } = await run(['cat', join(folder, 'cgroup.procs')]);
  const below = await Promise.all(children(folder).map(cgroupProcesses));
  return [
    ...stdout
      .split('\n')
      .filter((l) => l !== '')
      .map(Number),
    ...below.flat(),
  ];
}

/** Every process in the lab's namespaces or cgroup. Killing one may bring another to light: a few rounds. */
async function endProcesses(record: LabRecord): Promise<void> {
  const files = [record.hostNetns, record.netNetns, record.farNetns].map((n) => `/run/netns/${n}`);
  const namespaces = new Set(files.map(namespaceOf).filter((n) => n !== undefined));
  for (let round = 0; round < 5; round++) {
    const inCgroup = await Promise.all(cgroupFolders(record.cgroup).map(cgroupProcesses));
    const pids = new Set([...processesIn(namespaces), ...inCgroup.flat()]);
    pids.delete(process.pid);
    if (pids.size === 0) return;
    await Promise.all([...pids].map((pid) => end(pid, 0, 'SIGKILL')));
  }
  throw new Error(
    `lab ${record.name}: processes keep coming in its namespaces; try scripts/lab down ${record.name} again`,
  );
}

/** Order: containers, engine (by `stopEngine` where the caller can), processes, namespaces, cgroups, files, the record. */
export async function teardown(record: LabRecord, stopEngine?: () => Promise<void>): Promise<void> {
  await removeContainers(record.dir);
  await stopEngine?.();
  await endProcesses(record);
  await Promise.all([record.hostNetns, record.netNetns, record.farNetns].map(removeNamespace));
  for (const folder of cgroupFolders(record.cgroup)) {
    await waitFor(`cgroup ${folder} to be empty`, () => tryRemoveCgroup(folder), 10_000);
  }
  rmSync(record.dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  forget(record.name);
}

/** A lab's namespace without a record: its maker's last command ended after the maker, and after the reaping. */
function strays(): LabRecord[] {
  const netns = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  const names = new Set(
    netns
      .map((n) => /^dbl-([a-z0-9][a-z0-9-]{0,40})-(?:host|net|far)$/.exec(n)?.[1])
      .filter((n) => n !== undefined),
  );
  const records = [...names].map((name) =>
    newRecord(name, { dns: 'direct', iptables: 'nft', engine: '26', owner: me() }),
  );
  return records.filter((r) => load(r.name) === undefined);
}

/** Takes down the labs whose makers have gone; gives their names. */
export async function reap(): Promise<string[]> {
  for (const record of strays()) await teardown(record);
  const left = all().filter(orphaned);
  for (const record of left) {
    const mine = { ...record, owner: me() }; // so that no other reaper begins on it
    save(mine);
    await teardown(mine);
  }
  return left.map((r) => r.name);
}
