/** apt, npm and pip of this machine inside a container, and what their sites hold in a lab. */
import { createHash } from 'node:crypto';
import { existsSync, realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { gzipSync } from 'node:zlib';
import { run } from '../lab/process.js';
import { type TarEntry, tar } from '../lab/tar.js';

type Pages = Readonly<Record<string, string | Buffer>>;
const digest = (kind: string, data: Buffer, form: 'hex' | 'base64' = 'hex'): string =>
  createHash(kind).update(data).digest(form);
const entry = (path: string, text: string): TarEntry => ({
  path,
  kind: 'file',
  data: Buffer.from(text),
  mode: 0o644,
});

/** Each name of the shipped lists that its tool asks, and what stands there. */
export async function sites(): Promise<Readonly<Record<string, Pages>>> {
  return { ...debian(), ...npm(), ...(await pypi()) };
}

/** A repository without folders of distributions: https://wiki.debian.org/DebianRepository/Format#Flat_Repository_Format */
function debian(): Record<string, Pages> {
  const deb = Buffer.from('what dpkg would unpack');
  const about = [
    'Package: greeting',
    'Version: 1.0',
    'Architecture: all',
    'Maintainer: lab <lab@lab.test>',
    'Filename: ./greeting_1.0_all.deb',
    `Size: ${deb.length}`,
    `SHA256: ${digest('sha256', deb)}`,
    'Description: from the lab',
    '',
  ];
  const repository = { Packages: about.join('\n'), 'greeting_1.0_all.deb': deb };
  const below = (folder: string): Pages =>
    Object.fromEntries(Object.entries(repository).map(([file, body]) => [`${folder}/${file}`, body]));
  return { 'deb.debian.org': below('/debian'), 'security.debian.org': below('/debian-security') };
}

function npm(): Record<string, Pages> {
  const about = { name: 'greeting', version: '1.0.0', main: 'index.js' };
  const archive = gzipSync(
    tar([
      entry('package/package.json', JSON.stringify(about)),
      entry('package/index.js', 'module.exports = "from the lab";\n'),
    ]),
  );
  const dist = {
    tarball: 'https://registry.npmjs.org/greeting/-/greeting-1.0.0.tgz',
    integrity: `sha512-${digest('sha512', archive, 'base64')}`,
  };
  const metadata = {
    name: 'greeting',
    'dist-tags': { latest: '1.0.0' },
    versions: { '1.0.0': { ...about, dist } },
  };
  return {
    'registry.npmjs.org': {
      '/greeting': JSON.stringify(metadata),
      '/greeting/-/greeting-1.0.0.tgz': archive,
    },
  };
}

const WHEEL = `
import base64, io, zipfile
buffer = io.BytesIO()
with zipfile.ZipFile(buffer, "w") as z:
    z.writestr("greeting.py", "text = 'from the lab'\\n")
    z.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n")
    z.writestr("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr("greeting-1.0.dist-info/RECORD", "")
print(base64.b64encode(buffer.getvalue()).decode())
`;
async function pypi(): Promise<Record<string, Pages>> {
  const made = await run(['/usr/bin/python3', '-c', WHEEL], { check: true });
  const wheel = Buffer.from(made.stdout, 'base64');
  const file = 'greeting-1.0-py3-none-any.whl';
  const link = `https://files.pythonhosted.org/packages/${file}#sha256=${digest('sha256', wheel)}`;
  return {
    'pypi.org': { '/simple/greeting/': `<!DOCTYPE html><a href="${link}">${file}</a>` },
    'files.pythonhosted.org': { [`/packages/${file}`]: wheel },
  };
}

const same = (path: string): string => `${path}:${path}:ro`;
/** Mounts (`-v`) of the three tools; their libraries come with node's. */
export function toolMounts(): string[] {
  const python = realpathSync('/usr/bin/python3');
  const npmHome = dirname(dirname(npmProgram()));
  const folders = [
    npmHome,
    '/usr/lib/python3',
    `/usr/lib/${python.slice('/usr/bin/'.length)}`,
    '/usr/lib/apt',
    '/usr/share/dpkg',
  ];
  const programs = ['/usr/bin/apt-get', '/usr/bin/dpkg'];
  return [...folders, ...programs].map(same).concat(`${python}:/usr/bin/python3:ro`);
}
export function npmProgram(): string {
  const found = ['/usr/bin/npm', `${dirname(process.execPath)}/npm`].find(existsSync);
  if (found === undefined) throw new Error('npm is missing');
  return realpathSync(found);
}
