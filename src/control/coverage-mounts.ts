import type { Finding } from '../model/finding.js';

/** Places of this host that the configuration names. */
export interface OwnPlaces {
  readonly dockerSocket: string;
  /** Of Drawbridge's API; undefined: it listens elsewhere. */
  readonly apiSocket?: string;
  readonly state: string;
  readonly allowlists: string;
}
interface Socket {
  readonly path: string;
  readonly code: string;
  readonly what: string;
  readonly state: Finding['state'];
  readonly meaning: string;
}

const STARTS_ANYTHING = 'it can start containers without a policy, and take over the host';
const runtime = (path: string, what: string): Socket => ({
  path,
  code: 'runtime-socket',
  what,
  state: 'unenforced',
  meaning: STARTS_ANYTHING,
});
const dbus = (path: string): Socket => ({
  path,
  code: 'dbus',
  what: 'the system D-Bus',
  state: 'partial',
  meaning: 'it can ask services of the host to act for it, systemd among them',
});
const SOCKETS: readonly Socket[] = [
  runtime('/run/containerd/containerd.sock', "containerd's socket"),
  runtime('/run/docker/containerd/containerd.sock', "containerd's socket"),
  runtime('/run/podman/podman.sock', "Podman's socket"),
  runtime('/run/crio/crio.sock', "CRI-O's socket"),
  runtime('/run/systemd/private', "systemd's own socket"),
  dbus('/run/dbus/system_bus_socket'),
];
const docker = (path: string): Socket => ({ ...runtime(path, 'the Docker socket'), code: 'docker-socket' });

/** From where the host runs code or is told how: whoever writes there becomes the host. Single files inside are not meant. */
const HOST_FILES = new Set([
  '/',
  '/etc',
  '/usr',
  '/bin',
  '/sbin',
  '/lib',
  '/lib64',
  '/boot',
  '/root',
  '/proc',
  '/sys',
]);

interface Bind {
  readonly source: string;
  readonly isReadOnly: boolean;
}

/**
 * What is mounted from the host and opens a way past the rules. A socket is reached through a bind of itself or of any
 * folder above it, read-only or not (read-only keeps nobody from connecting).
 * @param binds `source:destination[:mode]`
 */
export function mountFindings(binds: readonly string[], own: OwnPlaces): Finding[] {
  const parsed = binds.map(parseBind).filter((b) => b.source.startsWith('/'));
  const found = [...socketFindings(parsed, own), ...hostFiles(parsed), ...ownFiles(parsed, own)];
  return found.filter((f, i) => found.findIndex((g) => g.code === f.code && g.detail === f.detail) === i);
}

function parseBind(text: string): Bind {
  const [source = '', , mode = ''] = text.split(':');
  return { source: canonical(source), isReadOnly: mode.split(',').includes('ro') };
}

/** /var/run is a link to /run on every system that has both. */
function canonical(path: string): string {
  const plain = path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
  return plain === '/var/run' || plain.startsWith('/var/run/') ? plain.slice('/var'.length) : plain;
}

const holds = (folder: string, path: string): boolean =>
  folder === '/' || path === folder || path.startsWith(`${folder}/`);

function socketFindings(binds: readonly Bind[], own: OwnPlaces): Finding[] {
  const places = new Set(['/run/docker.sock', canonical(own.dockerSocket)]);
  const sockets = [
    ...[...places].map(docker),
    ...(own.apiSocket ? [apiSocket(own.apiSocket)] : []),
    ...SOCKETS,
  ];
  return binds.flatMap(({ source }) =>
    sockets
      .filter((s) => holds(source, s.path))
      .map(({ code, state, what, meaning, path }) => ({
        code,
        state,
        detail: `it can reach ${what}${source === path ? '' : ` through its mount of ${source}`}: ${meaning}`,
        remedy: source === path ? `do not mount ${path} into it` : `mount less than ${source} into it`,
      })),
  );
}

const apiSocket = (path: string): Socket => ({
  path: canonical(path),
  code: 'own-socket',
  what: "Drawbridge's own socket",
  state: 'unenforced',
  meaning: 'it can change its own policy',
});

function hostFiles(binds: readonly Bind[]): Finding[] {
  return binds
    .filter((b) => !b.isReadOnly && HOST_FILES.has(b.source))
    .map(({ source }) => ({
      code: 'host-files',
      state: 'partial' as const,
      detail: `it can write ${source} of the host: what the host runs from there, it decides`,
      remedy: `mount ${source} read-only, or less of it`,
    }));
}

function ownFiles(binds: readonly Bind[], own: OwnPlaces): Finding[] {
  const places: readonly (readonly [string, string])[] = [
    [canonical(own.state), 'its state'],
    [canonical(own.allowlists), 'its allowlists'],
  ];
  return binds
    .filter((b) => !b.isReadOnly)
    .flatMap(({ source }) =>
      places
        .filter(([path]) => holds(source, path) || holds(path, source))
        .map(([path, what]) => ({
          code: 'own-files',
          state: 'unenforced' as const,
          detail: `it can write ${path}, where Drawbridge keeps ${what}: it can change its own policy`,
          remedy: `do not mount ${source} writable into it`,
        })),
    );
}
