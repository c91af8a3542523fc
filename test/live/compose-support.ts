/** docker compose on a lab's engine, with what no registry gives there: base images, and what `npm ci` would fetch. */
import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { debianImage } from '../lab/debian-image.js';
import type { Lab } from '../lab/lab.js';
import { type Result, run } from '../lab/process.js';

const ROOT = join(import.meta.dirname, '..', '..');
const COMPOSE = join(ROOT, 'docker-compose.yml');
/** COMPOSE_BUILD=1 compiles in the image, too; without it the image gets what was compiled here by the same command. */
const COMPILED = join(ROOT, 'dist');
const isCompiledHere = process.env.COMPOSE_BUILD === undefined && existsSync(join(COMPILED, 'main.js'));
const COMPILES = /^(typescript|esbuild|@esbuild\/.*|undici-types|@types\/.*)$/;
const DATA = { '/data': [999, 999] } as const;

/** Tags that the files of this project name. */
function imageTags(): readonly string[] {
  const text = [join(ROOT, 'Dockerfile'), COMPOSE].map((f) => readFileSync(f, 'utf8')).join('\n');
  const named = [...text.matchAll(/^(?:FROM|\s+image:) (\S+)/gm)].map((m) => m[1] ?? '');
  return [...new Set(named)].filter((tag) => tag !== 'drawbridge:local');
}

/** One image of this machine's Debian under all of them: Node, Redis, the packet filters. */
async function makeImages(lab: Lab): Promise<void> {
  const [first = '', ...others] = imageTags();
  const passwd = readFileSync('/usr/share/base-passwd/passwd.master', 'utf8');
  await debianImage((args) => lab.docker(...args), lab.dir, {
    tag: first,
    packages: ['iproute2', 'ipset', 'iptables', 'nftables'],
    programs: [process.execPath, '/usr/bin/redis-server', '/usr/bin/redis-cli'],
    files: { '/etc/passwd': `${passwd}redis:x:999:999::/data:/bin/sh\n` },
    owned: DATA,
  });
  for (const tag of others) await lab.docker('tag', first, tag);
}

/**
 * The Dockerfile's stage "modules", made of the modules that are here: those that run, and beside them those that compile.
 */
async function makeModules(lab: Lab): Promise<string> {
  const from = realpathSync(join(ROOT, 'node_modules'));
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>;
  };
  const all = Object.entries(lock.packages).flatMap(([path, p]) => {
    const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)$/.exec(path)?.[1];
    return name !== undefined && existsSync(join(from, name))
      ? [{ name, runs: !p.dev && !p.devOptional }]
      : [];
  });
  const app = join(lab.dir, 'modules', 'app');
  const copy = async (name: string, to: string): Promise<void> => {
    mkdirSync(join(app, to, dirname(name)), { recursive: true });
    await cp(join(from, name), join(app, to, name), { recursive: true });
  };
  for (const { name, runs } of all) {
    if (runs) await copy(name, 'production');
    if (!isCompiledHere && (runs || COMPILES.test(name))) await copy(name, 'node_modules');
  }
  return dirname(app);
}

function makeBuilt(lab: Lab): Readonly<Record<string, string>> {
  if (!isCompiledHere) return {};
  const folder = join(lab.dir, 'built');
  cpSync(COMPILED, join(folder, 'app', 'dist'), { recursive: true });
  return { build: folder };
}

export class Compose {
  readonly #lab: Lab;
  readonly #files: readonly string[];

  private constructor(lab: Lab, files: readonly string[]) {
    this.#lab = lab;
    this.#files = files;
  }

  /** Beside docker-compose.yml itself: where a lab keeps what a host keeps at the usual places. */
  static async prepare(lab: Lab): Promise<Compose> {
    const [modules] = await Promise.all([
      makeModules(lab),
      makeImages(lab),
      lab.inHost(['mount', '--make-rshared', '/'], { check: true }),
    ]);
    const place = (name: string): string => {
      mkdirSync(join(lab.dir, 'compose', name), { recursive: true });
      return join(lab.dir, 'compose', name);
    };
    const lock = join(place('run'), 'xtables.lock');
    writeFileSync(lock, '');
    const volumes = [
      `${lab.socketPath}:/var/run/docker.sock`,
      `${lab.execRoot}:/var/run/docker:ro,rslave`,
      `${lab.execRoot}:${lab.execRoot}:ro,rslave`,
      `${lab.dataRoot}/containers:/var/lib/docker/containers:ro`,
      `${lab.dataRoot}/containers:${lab.dataRoot}/containers:ro`,
      `${place('etc-docker')}:/etc/docker:ro`,
      `${lock}:/run/xtables.lock`,
      `${place('etc')}:/etc/drawbridge:ro`,
      `${place('state')}:/var/lib/drawbridge`,
    ];
    const build = { additional_contexts: { modules, ...makeBuilt(lab) } };
    const override = join(lab.dir, 'compose', 'lab.yml');
    writeFileSync(override, JSON.stringify({ services: { drawbridge: { build, volumes } } }));
    return new Compose(lab, [COMPOSE, override]);
  }

  /** `docker compose ARGS`; throws when it fails, unless `check: false`. */
  run(args: readonly string[], check = true): Promise<Result> {
    const files = this.#files.flatMap((f) => ['-f', f]);
    const env = {
      ...process.env,
      DOCKER_CONFIG: join(this.#lab.dir, 'compose', 'client'),
      BUILDX_CONFIG: join(this.#lab.dir, 'compose', 'buildx'),
    };
    const host = ['docker', '-H', `unix://${this.#lab.socketPath}`];
    return run([...host, 'compose', '--project-directory', ROOT, ...files, ...args], {
      env,
      check,
      timeoutMs: 180_000,
    });
  }

  /** `drawbridge ARGS` in its container. */
  drawbridge(...args: readonly string[]): Promise<Result> {
    return this.#lab.exec('drawbridge', ['drawbridge', ...args]);
  }
}
