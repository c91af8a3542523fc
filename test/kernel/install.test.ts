/** scripts/pack, install and uninstall, into a folder that stands for the root of a host. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..');
let dir: string;
let dest: string;
const at = (path: string): string => join(dest, path);
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-install-'));
  dest = join(dir, 'host');
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Resolves with what was printed; throws with it when the program fails. */
function run(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  return execFileSync(file, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: '/',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', DESTDIR: dest, ...env },
  });
}
const install = (...args: string[]): string => run(join(ROOT, 'scripts/install'), args);
const installed = (): string => run(at('usr/bin/drawbridge'), ['--version']).trim();

/** Files below a folder that another user than root may write, or that another user owns. */
const loose = (folder: string): string[] =>
  readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((file) => {
      const { mode, uid } = lstatSync(file);
      return uid !== 0 || (!lstatSync(file).isSymbolicLink() && (mode & 0o022) !== 0);
    });

/** An archive like that of scripts/pack, with a program that prints its version. */
function release(version: string): string {
  const folder = join(dir, version);
  for (const name of ['allowlists', 'docs'])
    cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  mkdirSync(join(folder, 'dist'));
  mkdirSync(join(folder, 'scripts'));
  for (const name of readdirSync(join(ROOT, 'scripts')).filter((n) =>
    /install|load-modules|^drawbridge/.test(n),
  ))
    cpSync(join(ROOT, 'scripts', name), join(folder, 'scripts', name));
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ version, type: 'module' }));
  writeFileSync(join(folder, 'dist', 'main.js'), `console.log('${version}')\n`);
  chmodSync(join(folder, 'dist', 'main.js'), 0o666);
  const archive = join(dir, `${version}.tgz`);
  execFileSync('tar', ['-C', folder, '--owner=1000', '-czf', archive, '.']);
  return archive;
}

it('a packed checkout runs from where it is installed, as root alone can change it', () => {
  const archive = join(dir, 'release.tgz');
  run(join(ROOT, 'scripts/pack'), [archive], { HOME: '/root' });
  install(archive);
  expect(installed()).toBe(
    (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }).version,
  );
  expect(run(at('usr/bin/drawbridge'), ['check', '--help'])).toContain('check');
  const lib = at('usr/lib/drawbridge/current');
  // what only the service loads: koffi's binary, without its install script, and the public names of all packages
  const load = `await import('${lib}/dist/parts/run-service.js'); console.log('loaded')`;
  expect(run(process.execPath, ['--input-type=module', '-e', load]).trim()).toBe('loaded');
  // the database of flows, which a thread loads after the start
  const query = `const Database = require('${lib}/node_modules/libsql'); console.log(new Database(':memory:').prepare('SELECT 42').raw().get()[0])`;
  expect(run(process.execPath, ['-e', query]).trim()).toBe('42');
  expect(loose(dest)).toEqual([]);
  const packages = readdirSync(join(lib, 'node_modules'));
  expect(packages).toContain('dockerode');
  const unwanted = /^(typescript|vitest|tsx|cpu-features|nan|bl|tar-stream|@protobufjs|@types)$/;
  expect(packages.filter((n) => unwanted.test(n))).toEqual([]);
  expect(readdirSync(join(lib, 'node_modules/ssh2')).filter((n) => n.endsWith('js'))).toEqual([
    'index.js',
    'index.mjs',
  ]);
  for (const notice of ['NOTICE', 'dist/NOTICE'])
    expect(readFileSync(join(lib, notice), 'utf8')).toContain('fastify');
  expect(JSON.parse(readFileSync(join(lib, 'sbom.cdx.json'), 'utf8'))).toMatchObject({
    bomFormat: 'CycloneDX',
  });
}, 600_000);

describe('releases', () => {
  it('change with one link, the one before is kept, and comes back', () => {
    for (const version of ['1.0.0', '1.1.0', '1.2.0']) {
      install(release(version));
      expect(installed()).toBe(version);
    }
    const lib = at('usr/lib/drawbridge');
    expect(
      readdirSync(lib)
        .filter((n) => /^\d/.test(n))
        .map((n) => n.slice(0, 5))
        .sort(),
    ).toEqual(['1.1.0', '1.2.0']);
    install('--rollback');
    expect(installed()).toBe('1.1.0');
    expect(readlinkSync(join(lib, 'previous'))).toMatch(/^1\.2\.0-/);
    expect(loose(dest)).toEqual([]);
  });

  it('installed again, nothing changes; lists and configuration that were changed stay', () => {
    const archive = release('1.0.0');
    install(archive);
    writeFileSync(at('etc/drawbridge/allowlists/npm.yaml'), 'allow: []\n');
    writeFileSync(at('etc/drawbridge/config.yaml'), 'default: enforce\n');
    install(archive);
    expect(readFileSync(at('etc/drawbridge/allowlists/npm.yaml'), 'utf8')).toBe('allow: []\n');
    expect(readFileSync(at('etc/drawbridge/config.yaml'), 'utf8')).toBe('default: enforce\n');
    expect(existsSync(at('usr/lib/drawbridge/previous'))).toBe(false);
    expect(() => install('--rollback')).toThrow(/no release before/);
  });

  it('one that does not run changes nothing', () => {
    install(release('1.0.0'));
    const broken = release('1.1.0');
    writeFileSync(join(dir, '1.1.0', 'dist', 'main.js'), 'throw new Error("broken")\n');
    execFileSync('tar', ['-C', join(dir, '1.1.0'), '-czf', broken, '.']);
    expect(() => install(broken)).toThrow(/does not run/);
    expect(installed()).toBe('1.0.0');
    expect(readdirSync(at('usr/lib/drawbridge')).filter((n) => n.startsWith('.'))).toEqual([]);
  });

  it('a Node that another user may replace is refused', () => {
    const bin = join(dir, 'bin');
    mkdirSync(bin, { mode: 0o777 });
    chmodSync(bin, 0o777);
    cpSync(process.execPath, join(bin, 'node'), { dereference: true });
    const env = { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin` };
    expect(() => run(join(ROOT, 'scripts/install'), [release('1.0.0')], env)).toThrow(
      /another user than root/,
    );
    expect(existsSync(dest)).toBe(false);
  });

  it('uninstall leaves configuration and state, --purge nothing', () => {
    const archive = release('1.0.0');
    const uninstall = (...args: string[]): string => run(join(ROOT, 'scripts/uninstall'), args);
    const files = (): string[] =>
      readdirSync(dest, { recursive: true })
        .map(String)
        .filter((f) => lstatSync(at(f)).isFile());
    install(archive);
    writeFileSync(at('var/cache/drawbridge/service.cjs.code'), 'kept');
    expect(files().filter((f) => /^usr\/lib\/systemd\/.*\.service$/.test(f))).toHaveLength(3);
    uninstall();
    expect(files().filter((f) => !f.startsWith('etc/drawbridge/'))).toEqual([]);
    expect(existsSync(at('var/lib/drawbridge'))).toBe(true);
    expect(existsSync(at('var/cache/drawbridge'))).toBe(false);
    install(archive);
    uninstall('--purge');
    expect(files()).toEqual([]);
    expect(existsSync(at('var/lib/drawbridge'))).toBe(false);
  });
});
