/** Images made on the spot: busybox-static and what a test adds; programs of the host come as read-only mounts. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Result, run } from './process.js';
import { type TarEntry, tar } from './tar.js';

export interface ImageOptions {
  readonly labels?: Readonly<Record<string, string>>;
  /** Path (absolute) to content; executable when it begins with "#!". */
  readonly files?: Readonly<Record<string, string | Buffer>>;
  readonly cmd?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}
export type ImportImage = (args: readonly string[], input: Buffer) => Promise<Result>;

const BUSYBOX = '/bin/busybox';
const PROBE = join(import.meta.dirname, 'probe.cjs');

function file(path: string, content: string | Buffer): TarEntry {
  const data = Buffer.from(content);
  const mode = data.subarray(0, 2).toString() === '#!' ? 0o755 : 0o644;
  return { path: path.replace(/^\//, ''), kind: 'file', data, mode };
}

async function base(): Promise<TarEntry[]> {
  const { stdout } = await run([BUSYBOX, '--list'], { check: true });
  const applets = stdout.split('\n').filter((a) => a !== '' && a !== 'busybox');
  const folders = ['bin/', 'etc/', 'root/', 'tmp/', 'var/', 'usr/'].map((path) => ({
    path,
    kind: 'folder' as const,
    mode: 0o755,
  }));
  return [
    ...folders,
    { path: 'bin/busybox', kind: 'file', data: readFileSync(BUSYBOX), mode: 0o755 },
    ...applets.map((a) => ({ path: `bin/${a}`, kind: 'link' as const, target: 'busybox' })),
    file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n'),
    file('etc/group', 'root:x:0:\nnogroup:x:65534:\n'),
  ];
}
let cached: Promise<TarEntry[]> | undefined;

/** Imports busybox plus `files` under `name`; gives the name. */
export async function buildImage(importImage: ImportImage, name: string, o: ImageOptions): Promise<string> {
  cached ??= base();
  const extra = Object.entries(o.files ?? {}).map(([path, content]) => file(path, content));
  const changes = [
    `CMD ${JSON.stringify(o.cmd ?? ['sleep', '1000000'])}`,
    ...Object.entries(o.labels ?? {}).map(([k, v]) => `LABEL ${JSON.stringify(k)}=${JSON.stringify(v)}`),
    ...Object.entries(o.env ?? {}).map(([k, v]) => `ENV ${k}=${JSON.stringify(v)}`),
  ];
  const archive = tar([...(await cached), ...extra]);
  await importImage(['import', ...changes.flatMap((c) => ['--change', c]), '-', name], archive);
  return name;
}

/** Folders that hold a program's shared libraries and loader, from ldd. */
async function libraryFolders(program: string): Promise<string[]> {
  const { stdout } = await run(['ldd', program], { check: true });
  const paths = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((m) => m[1] ?? '');
  return [...new Set(paths.map((p) => dirname(p)))];
}

let mounts: Promise<readonly string[]> | undefined;
async function findNodeMounts(): Promise<readonly string[]> {
  const folders = await libraryFolders(process.execPath);
  if (existsSync('/usr/share/nodejs')) folders.push('/usr/share/nodejs'); // Debian's node keeps modules there
  const binds = [
    `${process.execPath}:/usr/bin/node`,
    `${PROBE}:/probe.cjs`,
    ...folders.map((f) => `${f}:${f}`),
  ];
  return binds.flatMap((b) => ['-v', `${b}:ro`]);
}
/** `docker run` arguments that give a container this host's node as /usr/bin/node and the probe as /probe.cjs. */
export function nodeMounts(): Promise<readonly string[]> {
  mounts ??= findNodeMounts();
  return mounts;
}
