import { readdir, readFile, readlink } from 'node:fs/promises';
import { listeningSockets } from '../kernel/sockets.js';

/** Programs through whose sockets containers are started. The kernel keeps 15 characters of a name. */
const ENGINES = new Set([
  'dockerd',
  'containerd',
  'podman',
  'crio',
  'cri-dockerd',
  'buildkitd',
  'lxd',
  'incusd',
  'k3s-server',
  'kubelet',
]);
const ENGINE_NAME = /\/(docker|containerd|podman|crio|cri-dockerd|buildkitd)[\w.-]*\.(sock|ttrpc)$/;

export interface UnixSockets {
  /** Paths on which any process listens, with /run for /var/run. */
  readonly listening: ReadonlySet<string>;
  /** Those of container engines: by the name of the socket, or by the process. */
  readonly engines: readonly string[];
}

/** Unix sockets of this host (of this network namespace) on which processes listen. */
export async function readUnixSockets(): Promise<UnixSockets> {
  const listening = listeningSockets(await readFile('/proc/net/unix', 'utf8'));
  const owned = await enginesFds();
  return {
    listening: new Set([...listening.values()].map((path) => path.replace(/^\/var\/run\//, '/run/'))),
    engines: [...listening]
      .filter(([inode, path]) => owned.has(inode) || ENGINE_NAME.test(path))
      .map(([, path]) => path),
  };
}

/** Inodes of the sockets that engines hold. What may not be read (no SYS_PTRACE), or ends meanwhile, is left out. */
async function enginesFds(): Promise<ReadonlySet<string>> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const inodes = new Set<string>();
  for (const pid of pids) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (!ENGINES.has(name.trim())) continue;
    for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
      if (inode) inodes.add(inode);
    }
  }
  return inodes;
}
