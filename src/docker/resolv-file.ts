/**
 * Reads a container's resolv.conf, and only believes it while it is Docker's word. The file is mounted writable into
 * the container, which could write "ExtServers" as it likes; Docker's hash of it does not help, as the embedded
 * resolver's version is written without one (moby libnetwork sandbox_dns_unix.go, rebuildDNS). What the container
 * cannot forge is the change time: the runtime writes `init.pid` when the container is made and before it is started,
 * so a file changed before that was not changed by anything inside.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ResolverFacts, resolverFacts } from './resolv.js';

export interface ResolverPlace {
  /** DockerRootDir. */
  readonly rootDir: string;
  /** Full id of the namespace's owner. */
  readonly id: string;
  /** NetworkSettings.SandboxKey: `EXEC-ROOT/netns/…`; empty while unknown. */
  readonly sandboxKey: string;
}

/** What cannot be read or proven counts as asked from the host; a stopped or starting container has no proof. */
export async function readResolver(place: ResolverPlace): Promise<ResolverFacts> {
  const file = join(place.rootDir, 'containers', place.id, 'resolv.conf');
  const made = await madeAt(place);
  const text = await readFile(file, 'utf8').catch(() => undefined);
  // After the reading: a change in between must show.
  const changed = await changedAt(file);
  const docker = made !== undefined && changed !== undefined && changed < made;
  return resolverFacts(docker ? text : undefined);
}

/** Change time (ns) of the runtime's `init.pid`, under Docker's own containerd or the system's. */
async function madeAt(place: ResolverPlace): Promise<bigint | undefined> {
  const execRoot = place.sandboxKey === '' ? '/var/run/docker' : dirname(dirname(place.sandboxKey));
  const parents = [join(execRoot, 'containerd/daemon'), '/run/containerd'].map((p) =>
    join(p, 'io.containerd.runtime.v2.task'),
  );
  for (const parent of parents) {
    const namespaces = await readdir(parent).catch(() => []);
    for (const namespace of namespaces) {
      const at = await changedAt(join(parent, namespace, place.id, 'init.pid'));
      if (at !== undefined) return at;
    }
  }
  return undefined;
}

async function changedAt(path: string): Promise<bigint | undefined> {
  const stats = await stat(path, { bigint: true }).catch(() => undefined);
  return stats?.ctimeNs;
}
