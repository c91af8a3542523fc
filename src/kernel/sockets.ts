import { type Exec, must } from './exec.js';

/** As ss(8) prints an end: address, scope and port. */
const END = /^(?:\[([0-9a-f:.]+)\]|([0-9.]+|\*))(?:%\S+?)?:(\d+|\*)$/;
const PROTO: Readonly<Record<string, SocketEnds['proto']>> = { tcp: 6, udp: 17 };
const EVERYWHERE = new Set(['*', '0.0.0.0', '::']);
const MAPPED = '::ffff:';

/**
 * TCP and UDP sockets of this network namespace that were made in one of these cgroups (paths) or below. Listening ones
 * are left out. Throws KernelError when ss cannot tell (iproute2 before 5.9).
 */
export async function socketsIn(run: Exec, cgroups: readonly string[]): Promise<readonly SocketEnds[]> {
  const text = await must(run, 'ss', ['-H', '-n', '-t', '-u', '-a', '-O', '--cgroup']);
  return text.split('\n').flatMap((line) => {
    const [netid = '', state, , , local = '', peer = ''] = line.trim().split(/\s+/);
    const cgroup = / cgroup:\/(\S*)/.exec(line)?.[1];
    const isOurs = cgroups.some((c) => cgroup === c || cgroup?.startsWith(`${c}/`));
    const proto = PROTO[netid];
    const from = endOf(local);
    if (!isOurs || state === 'LISTEN' || proto === undefined || from?.port === undefined) return [];
    const to = endOf(peer);
    return [
      {
        proto,
        port: from.port,
        ...(from.address === undefined ? {} : { address: from.address }),
        ...(to?.address === undefined || to.port === undefined
          ? {}
          : { peer: { address: to.address, port: to.port } }),
      },
    ];
  });
}

function endOf(text: string): { readonly address?: string; readonly port?: number } | undefined {
  const [, v6, v4, port] = END.exec(text) ?? [];
  const said = v6 ?? v4;
  if (said === undefined) return undefined;
  const address = said.startsWith(MAPPED) && said.includes('.') ? said.slice(MAPPED.length) : said;
  return {
    ...(EVERYWHERE.has(address) ? {} : { address }),
    ...(port === '*' ? {} : { port: Number(port) }),
  };
}

/** A socket of the host's network namespace that may send. */
export interface SocketEnds {
  /** IANA protocol number. */
  readonly proto: 6 | 17;
  /** Its own end; without an address: any of the host. */
  readonly address?: string;
  readonly port: number;
  /** Absent: it is connected to nobody. */
  readonly peer?: { readonly address: string; readonly port: number };
}

/** Paths of listening unix sockets, by inode of the socket, from /proc/net/unix. */
export function listeningSockets(text: string): ReadonlyMap<string, string> {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/));
  return new Map(
    lines.flatMap(([, , , flags, , , inode, path]) =>
      flags === LISTENING && inode && path?.startsWith('/') ? [[inode, path] as const] : [],
    ),
  );
}

/** __SO_ACCEPTCON */
const LISTENING = '00010000';
