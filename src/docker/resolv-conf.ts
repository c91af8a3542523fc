/**
 * Which way a container's DNS goes, read from the resolv.conf that Docker wrote for it. Pure.
 *
 * Engine 25 and later list the upstreams of the embedded resolver in a comment (moby libnetwork/internal/resolvconf):
 * `# ExtServers: [10.0.0.2 host(127.0.0.53)]`, where `host(…)` is asked from the host's network namespace. In 25–27
 * that is a loopback or unreachable-family address from the host's file, from 28 on every address from the host's file.
 */

import { readdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { textIfThere } from '../lib/small-file.js';
import type { ResolverFacts } from '../policy/engine.js';

/**
 * Reads a container's resolv.conf, and uses it only while Docker was the last to change it. The file is mounted writable into
 * the container, which could write "ExtServers" as it likes; Docker's hash of it does not help, as the embedded
 * resolver's version is written without one (moby libnetwork sandbox_dns_unix.go, rebuildDNS). What the container
 * cannot forge is the change time: the runtime writes `init.pid` when the container is made and before it is started,
 * so a file changed before that was not changed by anything inside.
 */

const UNKNOWN: ResolverFacts = { embedded: true, hostAsked: true, search: [], servers: [], isUnknown: true };

const MAX_TEXTS = 64;
/** By the text, the only input: Docker writes the same file for most containers. */
const factsByText = new Map<string, ResolverFacts>();

/** @param text the file as Docker wrote it; undefined (unreadable, or perhaps the container's word) is closed: host-asked. */
export function resolverFacts(text: string | undefined): ResolverFacts {
  if (text === undefined) return UNKNOWN;
  const known = factsByText.get(text) ?? factsOf(text);
  if (factsByText.size >= MAX_TEXTS) factsByText.clear();
  factsByText.set(text, known);
  return known;
}

function factsOf(text: string): ResolverFacts {
  const lines = text.split('\n').map((l) => l.trim());
  const named = valuesOf(lines, 'nameserver').map((v) => v[0] ?? '');
  const search = (valuesOf(lines, 'search').at(-1) ?? []).map((d) => d.toLowerCase().replace(/\.$/, ''));
  if (!named.includes('127.0.0.11')) return { embedded: false, hostAsked: false, search, servers: named };
  return { embedded: true, ...upstreams(lines), search };
}

function valuesOf(lines: readonly string[], directive: string): readonly (readonly string[])[] {
  const fields = lines.map((l) => l.split(/\s+/));
  return fields.filter((f) => f[0] === directive && f.length > 1).map((f) => f.slice(1));
}

/** Without the comment the file is of an older engine, or has no upstream: queries may leave from the host. */
function upstreams(lines: readonly string[]): Pick<ResolverFacts, 'hostAsked' | 'servers'> {
  const list = lines.map((l) => /^# ExtServers: \[(.*)\]$/.exec(l)?.[1]).find((l) => l !== undefined);
  if (list === undefined) return { hostAsked: true, servers: [] };
  const marks = list.split(/\s+/).filter((s) => s !== '');
  const servers = marks.map((m) => /^host\((.*)\)$/.exec(m)?.[1] ?? m);
  return { hostAsked: marks.length === 0 || marks.some((m) => m.startsWith('host(')), servers };
}

interface ResolverPlace {
  /** DockerRootDir. */
  readonly rootDir: string;
  /** Full id of the namespace's owner. */
  readonly id: string;
  /** NetworkSettings.SandboxKey: `EXEC-ROOT/netns/…`; empty while unknown. */
  readonly sandboxKey: string;
}

/**
 * A file that cannot be read or proven counts as host-asked; a stopped or starting container has no proof. The calls are synchronous,
 * some 30 µs together, because a start reads the files of all containers: a thread pool takes ten times as long. They do not wait for a
 * disk: the mount in the container keeps the file in the memory of the kernel, and `init.pid` is below /run.
 */
export function readResolver(place: ResolverPlace): ResolverFacts {
  const file = `${place.rootDir}/containers/${place.id}/resolv.conf`;
  const made = madeAt(place);
  const text = made === undefined ? undefined : textIfThere(file);
  // After the reading: a change in between must show.
  const changed = changedAt(file);
  const docker = made !== undefined && changed !== undefined && changed < made;
  return resolverFacts(docker ? text : undefined);
}

/** containerd's namespace for containers (moby daemon, `containers.NamespaceName`); dockerd has an option for another one. */
const USUAL_NAMESPACE = 'moby';
const TASKS = 'io.containerd.runtime.v2.task';

/** Change time (ns) of the runtime's `init.pid`, under Docker's own containerd or the system's. */
function madeAt(place: ResolverPlace): bigint | undefined {
  const execRoot = place.sandboxKey === '' ? '/var/run/docker' : dirname(dirname(place.sandboxKey));
  const parents = [`${execRoot}/containerd/daemon/${TASKS}`, `/run/containerd/${TASKS}`];
  for (const parent of parents) {
    const at = changedAt(`${parent}/${USUAL_NAMESPACE}/${place.id}/init.pid`);
    if (at !== undefined) return at;
  }
  for (const parent of parents)
    for (const namespace of namesIn(parent)) {
      const at = changedAt(`${parent}/${namespace}/${place.id}/init.pid`);
      if (at !== undefined) return at;
    }
  return undefined;
}

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function changedAt(path: string): bigint | undefined {
  try {
    return statSync(path, { bigint: true, throwIfNoEntry: false })?.ctimeNs;
  } catch {
    return undefined;
  }
}
