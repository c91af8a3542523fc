/** scripts/pack, install and uninstall, into a folder that stands for the root of a host. */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
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
import { waitFor } from '../lab/process.js';

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
function release(version: string, program = `console.log('${version}')\n`): string {
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
  writeFileSync(join(folder, 'dist', 'main.js'), program);
  chmodSync(join(folder, 'dist', 'main.js'), 0o666);
  const archive = join(dir, `${version}.tgz`);
  execFileSync('tar', ['-C', folder, '--owner=1000', '-czf', archive, '.']);
  return archive;
}

/** A step of the installer: `  2.1 s  what it does`. */
const STEP = /^ *(\d+\.\d) s {2}(\S.*)$/gm;
const digestOf = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex');

/** The installed service starts with the packages that are in the archive, in a namespace of its own, and answers a command. */
async function answers(): Promise<void> {
  const config = join(dir, 'config.yaml');
  const socket = join(dir, 'api.sock');
  const [state, allowlists] = [join(dir, 'state'), at('etc/drawbridge/allowlists')];
  const keys = {
    state,
    allowlists,
    docker: { socket: join(dir, 'none') },
    api: { listen: `unix:${socket}` },
  };
  writeFileSync(config, JSON.stringify(keys));
  const args = ['--net', at('usr/bin/drawbridge'), 'run', '--config', config];
  const service = spawn('unshare', args, { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    await waitFor('the API', () => existsSync(socket) || service.exitCode !== null, 60_000);
    expect(JSON.parse(run(at('usr/bin/drawbridge'), ['ps', '--json', '--config', config]))).toEqual([]);
  } finally {
    service.kill('SIGKILL');
    await waitFor('its end', () => service.exitCode !== null || service.signalCode !== null);
  }
}

it('a packed checkout is the same twice, and runs from where it is installed, as root alone can change it', async () => {
  const archive = join(dir, 'release.tgz');
  // another moment, another umask: the bill of materials has a time, and files have modes
  for (const [to, mask] of Object.entries({ [archive]: '0022', [join(dir, 'again.tgz')]: '0077' }))
    run('sh', ['-c', `umask ${mask}; exec ${join(ROOT, 'scripts/pack')} ${to}`], { HOME: '/root' });
  expect(digestOf(join(dir, 'again.tgz'))).toBe(digestOf(archive));
  const steps = [...install(archive).matchAll(STEP)];
  expect(steps.map(([, , what = '']) => what.split(' ')[0])).toEqual([
    'checks',
    'unpacks',
    'writes',
    'installed:',
  ]);
  // it takes two or three seconds: from an archive nothing is built and nothing fetched
  expect(Number(steps.at(-1)?.[1])).toBeLessThan(20);
  expect(installed()).toBe(
    (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }).version,
  );
  expect(run(at('usr/bin/drawbridge'), ['check', '--help'])).toContain('check');
  const lib = at('usr/lib/drawbridge/current');
  await answers();
  // the database of flows, which a process loads after the start
  const query = `const Database = require('${lib}/node_modules/libsql'); console.log(new Database(':memory:').prepare('SELECT 42').raw().get()[0])`;
  expect(run(process.execPath, ['-e', query]).trim()).toBe('42');
  expect(loose(dest)).toEqual([]);
  // all others are inside dist
  expect(readdirSync(join(lib, 'node_modules')).sort()).toEqual([
    '@koromix',
    '@libsql',
    '@neon-rs',
    'koffi',
    'libsql',
  ]);
  expect(readFileSync(join(lib, 'NOTICE'), 'utf8')).toContain('libsql');
  expect(readFileSync(join(lib, 'dist/NOTICE'), 'utf8')).toContain('fastify');
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

  /** A program that notes its user in a file, and ends with this command. */
  function planted(file: string, end: string): () => string | undefined {
    const marker = join(dir, 'ran');
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, `#!/bin/sh\nid -u >>${marker}\n${end}\n`, { mode: 0o755 });
    return () => (existsSync(marker) ? readFileSync(marker, 'utf8') : undefined);
  }

  it('an archive that is not there', () => {
    expect(() => install(join(dir, 'none.tgz'))).toThrow(/name an archive of scripts\/pack, or none/);
  });

  it('a host with a wrong configuration: nothing is started, which would close its containers', () => {
    const archive = release('1.0.0', "if (process.argv[2] === 'check') throw new Error('unknown key');\n");
    // an overlay over the file system of this host: what is written stays in memory, and is discarded when the process ends
    const script = [
      'set -eu; mount -t tmpfs none "$1"',
      'for d in usr etc run var; do mkdir "$1/$d" "$1/$d.work"',
      'mount -t overlay none -o "lowerdir=/$d,upperdir=$1/$d,workdir=$1/$d.work" "/$d"; done',
      'mkdir -p /run/systemd/system; rm -f /usr/bin/systemctl',
      `printf '#!/bin/sh\\necho "systemctl $*"\\n[ "$1" != is-active ]\\n' >/usr/bin/systemctl; chmod 755 /usr/bin/systemctl`,
      '"$2" "$3" || echo "exit $?"',
    ].join('\n');
    const view = join(dir, 'view');
    mkdirSync(view);
    const argv = ['-m', 'bash', '-c', script, 'bash', view, join(ROOT, 'scripts/install'), archive];
    const printed = run('unshare', argv, { DESTDIR: '' });
    expect(printed).toMatch(/^systemctl is-active.*\nexit 1$/m);
    expect(printed).not.toMatch(/systemctl (enable|restart)/);
  });

  it('a Node that another user may replace is refused, and not run once', () => {
    const bin = join(dir, 'bin');
    const ran = planted(join(bin, 'node'), 'exit 0');
    chmodSync(bin, 0o777);
    const env = { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin` };
    expect(() => run(join(ROOT, 'scripts/install'), [release('1.0.0')], env)).toThrow(
      /another user than root/,
    );
    expect([ran(), existsSync(dest)]).toEqual([undefined, false]);
  });

  it('git, which runs programs that a repository names, reads a checkout as the user of sudo', () => {
    const checkout = join(dir, 'checkout');
    mkdirSync(join(checkout, 'scripts'), { recursive: true });
    cpSync(join(ROOT, 'scripts/pack'), join(checkout, 'scripts/pack'));
    const signs = 'cat >/dev/null; echo "[GNUPG:] SIG_CREATED " >&2; echo "-----BEGIN PGP SIGNATURE-----"';
    const ran = planted(join(checkout, '.git/gpg'), signs);
    const git = (...args: string[]): string => run('git', ['-C', checkout, ...args]);
    git('init', '-q');
    git('config', 'gpg.program', join(checkout, '.git/gpg'));
    git('config', 'log.showSignature', 'true');
    git('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-q', '-S', '--allow-empty', '-m', 'signed');
    const nobody = 65534;
    chmodSync(dir, 0o777);
    rmSync(join(dir, 'ran'));
    run('chown', ['-R', String(nobody), checkout]);
    const env = { SUDO_UID: String(nobody), SUDO_GID: String(nobody) };
    // There is nothing else to pack.
    expect(() => run(join(checkout, 'scripts/pack'), [join(dir, 'release.tgz')], env)).toThrow(
      /package\.json/,
    );
    expect(ran()).toBe(`${nobody}\n`);
  });

  describe('without a Node that it can use, the command that mends it is printed:', () => {
    /** A PATH with this program as `node`, or with none. */
    function path(program?: string): Readonly<Record<string, string>> {
      const bin = join(dir, 'tools');
      mkdirSync(bin);
      for (const tool of ['iptables', 'ip6tables', 'ipset', 'nft', 'ip'])
        writeFileSync(join(bin, tool), '#!/bin/sh\n', { mode: 0o755 });
      for (const tool of 'bash id readlink dirname stat sed cut find sort tail getent'.split(' '))
        execFileSync('ln', [
          '-s',
          execFileSync('which', [tool], { encoding: 'utf8' }).trim(),
          join(bin, tool),
        ]);
      if (program !== undefined) writeFileSync(join(bin, 'node'), program, { mode: 0o755 });
      return { PATH: bin };
    }
    const OLD = '#!/bin/sh\n[ "$1" = --version ] && echo v18.19.1\nexit 1\n';
    const refusal = (env: Readonly<Record<string, string>>, archive = release('1.0.0')): string => {
      try {
        return run(join(ROOT, 'scripts/install'), [archive], env);
      } catch (e) {
        return String((e as { stderr?: unknown }).stderr);
      }
    };

    it.each([
      ['ID=debian\nVERSION_ID="13"', /^ {2}apt-get install nodejs$/m],
      ['ID=debian\nVERSION_ID="12"', /deb\.nodesource\.com.*\n {2}sudo apt-get install nodejs$/m],
      ['ID=ubuntu\nVERSION_ID="24.04"', /deb\.nodesource\.com/],
      ['ID=ubuntu\nVERSION_ID="26.04"', /^ {2}apt-get install nodejs$/m],
      ['ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"', /deb\.nodesource\.com/],
      ['ID=fedora\nVERSION_ID=42', /^ {2}dnf install nodejs$/m],
      ['ID="rocky"\nVERSION_ID="9.5"', /dnf module install -y nodejs:22/],
      ['ID=alpine', /^ {2}apk add nodejs$/m],
    ])('%s', (system, command) => {
      mkdirSync(at('etc'), { recursive: true });
      writeFileSync(at('etc/os-release'), `${system}\n`);
      const text = refusal(path(OLD));
      expect(text).toMatch(/is Node v18\.19\.1, which is too old: 20\.19 or newer is needed/);
      expect(text).toMatch(command);
      expect(existsSync(at('usr'))).toBe(false);
    });

    it('one in the home of a user is offered as a copy that root owns', () => {
      const bin = join(dir, 'bin');
      mkdirSync(bin, { mode: 0o777 });
      chmodSync(bin, 0o777);
      cpSync(process.execPath, join(bin, 'node'), { dereference: true });
      const { PATH: tools } = path();
      const archive = release('1.0.0');
      const text = refusal({ PATH: `${bin}:${tools}` }, archive);
      expect(text).toMatch(/version manager, such as nvm/);
      const [, copy = ''] = /^ {2}sudo (install .*)$/m.exec(text) ?? [];
      expect(copy).toBe(`install -o root -g root -m 755 ${join(bin, 'node')} /usr/local/bin/node`);
      expect(refusal({ PATH: tools ?? '' }, archive)).toMatch(/Node is missing/);
    });

    it('the newest one of a version manager is offered by its path, and never run', () => {
      const home = join(dir, 'home');
      const nvm = (version: string): string => join(home, '.nvm/versions/node', version, 'bin/node');
      const ran = planted(nvm('v20.18.3'), 'exit 0');
      const env = path();
      rmSync(join(env.PATH ?? '', 'getent'));
      writeFileSync(join(env.PATH ?? '', 'getent'), `#!/bin/sh\necho x:x:1:1:x:${home}:x\n`, { mode: 0o755 });
      const archive = release('1.0.0');
      expect(refusal(env, archive)).not.toContain('copy the one of your own');
      for (const version of ['v20.19.0', 'v22.9.0', 'v22.10.1']) planted(nvm(version), 'exit 0');
      expect(refusal(env, archive)).toContain(`install -o root -g root -m 755 ${nvm('v22.10.1')} /usr/local`);
      expect(ran()).toBeUndefined();
    });
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
