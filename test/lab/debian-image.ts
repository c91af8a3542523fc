/**
 * An image of this machine's Debian, Node in it: what a Dockerfile builds on where no registry is reachable. Packages are
 * whole (as dpkg lists them) and dpkg knows them, so that `apt-get install` of what is there has nothing to fetch.
 */
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { run } from './process.js';

export interface DebianImage {
  readonly tag: string;
  /** Beside the essential ones and apt. */
  readonly packages: readonly string[];
  /** Programs that may come from elsewhere, with their libraries. */
  readonly programs: readonly string[];
  /** Absolute path to content. */
  readonly files?: Readonly<Record<string, string>>;
  /** Folders, and the user and group that own them. */
  readonly owned?: Readonly<Record<string, readonly [uid: number, gid: number]>>;
}
export type Docker = (args: readonly string[]) => Promise<unknown>;

const SKIPPED = /^\/usr\/share\/(doc|man|locale|info|bug|lintian)\//;
/** What update-alternatives made: no package owns it. */
const ALTERNATIVES = ['', '-save', '-restore'].flatMap((end) =>
  ['iptables', 'ip6tables'].flatMap((n) => [`/usr/sbin/${n}${end}`, `/etc/alternatives/${n}${end}`]),
);

const lines = (text: string): string[] => text.split('\n').filter((l) => l !== '');
/** Packages still say /lib where it is /usr/lib. */
const inPlace = (path: string): string => join(realpathSync(dirname(path)), basename(path));
const output = async (argv: readonly string[]): Promise<string> => (await run(argv, { check: true })).stdout;

type Records = ReadonlyMap<string, string>;
/** What dpkg says of each package that is installed. */
function records(): Records {
  const all = readFileSync('/var/lib/dpkg/status', 'utf8').split('\n\n');
  const installed = all.filter((r) => /^Status: install ok installed$/m.test(r));
  return new Map(installed.map((r) => [/^Package: (\S+)$/m.exec(r)?.[1] ?? '', r.trim()]));
}
/** Names in a relation, versions and architectures left out; of alternatives all. */
function named(record: string, field: string): string[] {
  const text = new RegExp(`^${field}: (.*)$`, 'm').exec(record)?.[1] ?? '';
  return text.split(/[,|]/).flatMap((part) => /^[a-z0-9][a-z0-9+.-]*/.exec(part.trim())?.[0] ?? []);
}

/** The packages, and what they need. */
function closure(known: Records, packages: readonly string[]): string[] {
  const essential = [...known].filter(([, r]) => /^Essential: yes$/m.test(r)).map(([name]) => name);
  const providers = (virtual: string): string[] =>
    [...known].filter(([, r]) => named(r, 'Provides').includes(virtual)).map(([name]) => name);
  const found = new Set<string>();
  const queue = [...essential, 'apt', ...packages];
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const record = known.get(name);
    if (record === undefined) queue.push(...providers(name).filter((p) => !found.has(p)));
    if (record === undefined || found.has(name)) continue;
    found.add(name);
    queue.push(...named(record, 'Pre-Depends'), ...named(record, 'Depends'));
  }
  return [...found].sort();
}

async function filesOf(packages: readonly string[]): Promise<string[]> {
  const listed = lines(await output(['dpkg-query', '-L', ...packages]));
  return listed.filter((f) => f.startsWith('/') && f !== '/.' && !SKIPPED.test(f));
}

async function librariesOf(program: string): Promise<string[]> {
  const found = await output(['ldd', program]);
  return [...found.matchAll(/(\/\S+) \(0x/g)].flatMap(([, path = '']) => [path, realpathSync(path)]);
}

/** Folders that no package brings. */
const FOLDERS = [
  '/dev',
  '/etc/apt/preferences.d',
  '/proc',
  '/root',
  '/run',
  '/sys',
  '/tmp',
  '/var/cache/apt/archives/partial',
  '/var/lib/apt/lists/partial',
  '/var/tmp',
];

/** What an installation makes: dpkg's word on each package, users, an apt without a source. Gives the paths. */
function furnish(
  stage: string,
  known: Records,
  packages: readonly string[],
  o: DebianImage,
): ReadonlySet<string> {
  const files = {
    '/var/lib/dpkg/status': `${packages.flatMap((p) => known.get(p) ?? []).join('\n\n')}\n`,
    '/etc/apt/sources.list': '',
    '/etc/passwd': readFileSync('/usr/share/base-passwd/passwd.master', 'utf8'),
    '/etc/group': readFileSync('/usr/share/base-passwd/group.master', 'utf8'),
    ...o.files,
  };
  for (const folder of FOLDERS) mkdirSync(join(stage, folder), { recursive: true });
  for (const folder of ['/tmp', '/var/tmp']) chmodSync(join(stage, folder), 0o1777);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(stage, dirname(path)), { recursive: true });
    writeFileSync(join(stage, path), text);
  }
  for (const [path, [uid, gid]] of Object.entries(o.owned ?? {})) {
    mkdirSync(join(stage, path), { recursive: true });
    chownSync(join(stage, path), uid, gid);
  }
  return new Set([...FOLDERS, ...Object.keys(files), ...Object.keys(o.owned ?? {})]);
}

/** Imports it under its tag. `dir` is for what comes and goes. */
export async function debianImage(docker: Docker, dir: string, o: DebianImage): Promise<void> {
  const stage = join(dir, 'debian-image');
  const [list, archive] = [`${stage}.list`, `${stage}.tar`];
  mkdirSync(stage);
  const known = records();
  const packages = closure(known, o.packages);
  const made = furnish(stage, known, packages, o);
  const libraries = (await Promise.all(o.programs.map(librariesOf))).flat();
  const programs = o.programs.flatMap((p) => [p, realpathSync(p)]);
  const all = [...(await filesOf(packages)), ...libraries, ...programs, ...ALTERNATIVES, '/etc/ld.so.cache'];
  const there = new Set(all.filter((f) => lstatSync(f, { throwIfNoEntry: false })).map(inPlace));
  const tar = (mode: string, from: string, paths: Iterable<string>): Promise<unknown> => {
    writeFileSync(list, [...paths].map((p) => p.slice(1)).join('\n'));
    return run(['tar', mode, '--no-recursion', '-f', archive, '-C', from, '-T', list], { check: true });
  };
  await tar(
    '--create',
    '/',
    [...there].filter((f) => !made.has(f)),
  );
  await tar('--append', stage, made);
  await docker([
    'import',
    '--change',
    `ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    archive,
    o.tag,
  ]);
  for (const path of [stage, list, archive]) rmSync(path, { recursive: true });
}
