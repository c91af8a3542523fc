/**
 * Which engine a lab runs: the installed one, Engine 28, or the programs in the folder that LAB_ENGINE_DIR names. Engine 28 is
 * unpacked from the packages of Debian's next release into a cache folder. The packages are never installed:
 * the lab puts the folder first in the PATH of its own processes. apt checks each package by the signed index of the
 * release, with lists and a cache of its own, so that the machine's package state stays as it is.
 */
import { execFileSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { run } from './process.js';

/** 26: the engine that is installed on this machine (Debian 13 has 26.1.5). 28: the one in the cache folder. */
export const ENGINES = ['26', '28'] as const;
export type EngineVersion = (typeof ENGINES)[number];

const CACHE = '/var/cache/drawbridge';
const UNPACKED = join(CACHE, 'engine-28');
const RELEASE = 'forky';
const PACKAGES = ['docker.io', 'docker-cli', 'containerd', 'runc', 'tini-static'];
/** The programs of an engine, whose shared libraries must all be on this machine. */
const PROGRAMS = [
  'dockerd',
  'docker',
  'docker-init',
  'docker-proxy',
  'containerd',
  'containerd-shim-runc-v2',
  'runc',
];
/** Where a package has its programs. */
const FOLDERS = ['usr/sbin', 'usr/bin'];
const DEFAULT_SOURCE = {
  uri: 'http://deb.debian.org/debian/',
  key: '/usr/share/keyrings/debian-archive-keyring.pgp',
};

/** The folder with the programs of any engine, for a whole run: LAB_ENGINE_DIR. */
function folderOfRun(): string | undefined {
  const folder = process.env.LAB_ENGINE_DIR || undefined;
  if (folder !== undefined && process.env.LAB_ENGINE)
    throw new Error('LAB_ENGINE and LAB_ENGINE_DIR are both set: only one of them can choose the engine');
  if (folder !== undefined && !isAbsolute(folder))
    throw new Error(`LAB_ENGINE_DIR is "${folder}": use an absolute path`);
  return folder;
}

/** Of a folder: itself, as Docker's archives have it, or an unpacked package. */
const programsIn = (root: string): string[] =>
  [root, ...FOLDERS.map((f) => join(root, f))].filter(existsSync);

/**
 * The engine of a whole run, from the environment variable LAB_ENGINE. With LAB_ENGINE_DIR, the one of ENGINES that behaves as the engine in
 * that folder: tests ask for it where the two differ.
 */
export function engineOfRun(): EngineVersion {
  const folder = folderOfRun();
  if (folder !== undefined) return majorOf(folder) < 28 ? '26' : '28';
  const wanted = process.env.LAB_ENGINE || '26';
  const known = ENGINES.find((e) => e === wanted);
  if (known === undefined) throw new Error(`LAB_ENGINE is "${wanted}": use one of ${ENGINES.join(', ')}`);
  return known;
}

const majors = new Map<string, number>();
function majorOf(folder: string): number {
  const known = majors.get(folder);
  if (known !== undefined) return known;
  const printed = execFileSync(programAt(folder, 'dockerd'), ['--version'], { encoding: 'utf8' });
  const major = Number(/^Docker version (\d+)\./.exec(printed)?.[1]);
  if (Number.isNaN(major)) throw new Error(`${folder}: dockerd --version prints ${JSON.stringify(printed)}`);
  majors.set(folder, major);
  return major;
}

/** PATH with the programs of this engine first. */
export function enginePath(engine: EngineVersion, path = process.env.PATH ?? ''): string {
  const root = folderOfRun() ?? (engine === '28' ? UNPACKED : undefined);
  return root === undefined ? path : [...programsIn(root), path].join(':');
}

/** Throws when the folder has no such program, or it may not be executed. */
function programAt(root: string, name: string): string {
  const file = programsIn(root)
    .map((folder) => join(folder, name))
    .find(existsSync);
  if (file === undefined)
    throw new Error(`${root} has no program ${name}: an engine consists of ${PROGRAMS.join(', ')}`);
  try {
    accessSync(file, constants.X_OK);
  } catch {
    throw new Error(`${file} is not executable`);
  }
  return file;
}

const output = async (argv: readonly string[], cwd?: string): Promise<string> => {
  const command = cwd === undefined ? argv : ['env', '-C', cwd, ...argv];
  return (await run(command, { check: true, env: { ...process.env, LC_ALL: 'C' } })).stdout;
};

/** The Debian mirror that this machine uses, with its key; Debian's default where apt names none. */
async function source(): Promise<{ uri: string; key: string }> {
  const format = '$(LABEL)|$(REPO_URI)|$(SIGNED_BY)';
  const listed = await output(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages']);
  const debian = listed.split('\n').find((line) => line.startsWith('Debian|'));
  const [, uri = '', key = ''] = debian?.split('|') ?? [];
  if (!/^[a-z+]+:\S+$/.test(uri)) return DEFAULT_SOURCE;
  return { uri, key: key.startsWith('/') ? key : DEFAULT_SOURCE.key };
}

/** Options that keep apt away from the machine's own sources, lists, cache and package state. */
function aptOptions(dir: string): string[] {
  const options = {
    'Dir::Etc::sourcelist': join(dir, 'engine.sources'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
    'Dir::State': join(dir, 'state'),
    'Dir::State::status': '/dev/null',
    'Dir::Cache': join(dir, 'cache'),
    'APT::Sandbox::User': 'root', // the folder belongs to root
    'Acquire::Retries': '2',
    'Acquire::http::Timeout': '20',
  };
  return Object.entries(options).flatMap(([k, v]) => ['-o', `${k}=${v}`]);
}

async function checkVersion(options: readonly string[]): Promise<void> {
  const shown = await output(['apt-cache', ...options, 'show', '--no-all-versions', 'docker.io']);
  const version = /^Version: (\S+)$/m.exec(shown)?.[1] ?? '(none)';
  if (!version.startsWith('28.')) throw new Error(`Debian ${RELEASE} has docker.io ${version}`);
}

async function checkPrograms(root: string): Promise<void> {
  for (const file of PROGRAMS.map((name) => programAt(root, name))) {
    const { stdout, stderr } = await run(['ldd', file]); // exit 1 for a static program, which needs none
    const missing = `${stdout}\n${stderr}`.split('\n').filter((line) => line.includes('not found'));
    if (missing.length > 0)
      throw new Error(`${file} lacks libraries of this machine: ${missing.join(', ').trim()}`);
  }
}

/** Downloads and unpacks into `dir`. */
async function unpack(dir: string): Promise<string> {
  const options = aptOptions(dir);
  const { uri, key } = await source();
  const stanza = { Types: 'deb', URIs: uri, Suites: RELEASE, Components: 'main', 'Signed-By': key };
  const text = Object.entries(stanza).map(([k, v]) => `${k}: ${v}\n`);
  writeFileSync(join(dir, 'engine.sources'), text.join(''));
  for (const folder of ['state/lists/partial', 'cache/archives/partial', 'packages', 'root'])
    mkdirSync(join(dir, folder), { recursive: true });
  await output(['apt-get', ...options, '-qq', 'update']);
  await checkVersion(options);
  const packages = join(dir, 'packages');
  await output(['apt-get', ...options, '-qq', 'download', ...PACKAGES], packages);
  const files = readdirSync(packages).filter((f) => f.endsWith('.deb'));
  if (files.length !== PACKAGES.length) throw new Error(`apt-get download gave only ${files.join(', ')}`);
  const root = join(dir, 'root');
  for (const file of files) await output(['dpkg', '-x', join(packages, file), root]);
  await checkPrograms(root);
  writeFileSync(join(root, 'packages'), `${files.sort().join('\n')}\n`);
  return root;
}

/** Makes the programs of this engine available, from LAB_ENGINE_DIR, the cache folder or the network; throws with the reason if it cannot. */
export async function provideEngine(engine: EngineVersion): Promise<void> {
  const folder = folderOfRun();
  if (folder !== undefined) return checkPrograms(folder);
  if (engine === '26' || existsSync(UNPACKED)) return;
  mkdirSync(CACHE, { recursive: true });
  const dir = mkdtempSync(join(CACHE, 'fetch-'));
  try {
    renameSync(await unpack(dir), UNPACKED); // whole or not at all
  } catch (e) {
    if (!existsSync(UNPACKED))
      // else another process was faster
      throw new Error(`Engine 28 cannot be had: ${(e as Error).message}`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
