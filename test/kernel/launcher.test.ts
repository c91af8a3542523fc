/** scripts/launcher.cjs, with a small script instead of the service: when V8's code of it is used and written. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..');
const NOBODY = 65534;
let dir: string;
let folder: string;
let code: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-launcher-'));
  chmodSync(dir, 0o755);
  folder = join(dir, 'cache');
  code = join(folder, 'service.cjs.code');
  mkdirSync(folder, { mode: 0o755 });
  mkdirSync(join(dir, 'parts'));
  const launcher = readFileSync(join(ROOT, 'scripts/launcher.cjs'), 'utf8');
  writeFileSync(
    join(dir, 'main.js'),
    launcher.replace('const QUICK = [];', "const QUICK = ['ps', 'version'];"),
  );
  writeService("console.log('first');");
});
afterEach(() => rmSync(dir, { recursive: true }));

/** A service that changes a flag of V8, as the real one does, and is at rest at once. */
function writeService(
  body: string,
  rest = "require('node:diagnostics_channel').channel('drawbridge:at rest').publish();",
): void {
  const flags = [2, 1]
    .map((n) => `require('node:v8').setFlagsFromString('--semi-space-growth-factor=${n}');`)
    .join('');
  const text = `(function(exports,require,module,__filename,__dirname){${body}${flags}${rest}\n})`;
  writeFileSync(join(dir, 'parts', 'service.cjs'), text);
}
function launch({ flags = [] as string[], uid = 0 } = {}): string {
  return execFileSync(process.execPath, [...flags, join(dir, 'main.js'), 'run'], {
    encoding: 'utf8',
    env: { CACHE_DIRECTORY: folder },
    uid,
  }).trim();
}
/** Changes whenever the file is written, as each write makes a new one. */
const written = (): number => statSync(code).ino;
/** Whether this launch has written the code, because it could not use that in the file. */
function writes(options: Parameters<typeof launch>[0] = {}): boolean {
  const before = written();
  expect(launch(options)).toBe('first');
  return written() !== before;
}

it('code is written once, and used from then on', () => {
  expect(launch()).toBe('first');
  expect(readdirSync(folder)).toEqual(['service.cjs.code']);
  expect(statSync(code)).toMatchObject({ uid: 0, mode: 0o100600 });
  expect(writes()).toBe(false);
});

it('code of another script of the same length is not used', () => {
  launch();
  writeService("console.log('other');");
  expect(launch()).toBe('other');
  expect(launch()).toBe('other');
});

it('code with a changed byte, at any place, is not used', () => {
  launch();
  const whole = readFileSync(code);
  for (let n = 0; n < 16; n++) {
    const changed = Buffer.from(whole);
    const at = Math.floor(((whole.length - 1) * n) / 15);
    changed[at] = (changed[at] ?? 0) ^ 0xff;
    writeFileSync(code, changed);
    expect(writes(), `byte ${at}`).toBe(true);
  }
  for (const length of [0, 20, 32, whole.length - 1]) {
    writeFileSync(code, whole.subarray(0, length));
    expect(writes(), `${length} bytes`).toBe(true);
  }
});

it('code that was made with other flags of V8 is not used', () => {
  launch();
  expect(writes({ flags: ['--no-opt'] })).toBe(true);
});

it.runIf(process.versions.v8.startsWith('11.'))('functions that run for some ms are not optimized', () => {
  const work = 'function work(n){let sum=0;for(let i=0;i<n;i++)sum+=i%7;return sum}';
  const optimized = (calls: number): boolean => {
    writeService(`${work}for(let i=0;i<${calls};i++)work(100);`);
    const trace = launch({ flags: ['--trace-opt', '--no-concurrent-recompilation', '--no-use-osr'] });
    return /completed compiling .*<JSFunction work /.test(trace);
  };
  expect(optimized(100)).toBe(false); // by default V8 optimizes it within 100 calls
  expect(optimized(10_000)).toBe(true);
});

it.runIf(process.versions.v8.startsWith('11.'))('the objects of a start are not marked', () => {
  writeService("const kept=[];for(let n=0;n<500_000;n++)kept.push({n,of:[n]});console.log('allocated');");
  const trace = launch({ flags: ['--trace-gc'] });
  expect(trace).toContain('allocated');
  const marked = trace.split('\n').filter((line) => line.includes('Mark-Compact'));
  expect(marked.length).toBe(1); // of the launcher itself, which sets the limit
  expect(marked[0]).toContain('testing');
});

it('code that another user than root could have written is not used', () => {
  launch();
  chmodSync(code, 0o664);
  expect(writes()).toBe(true);
  chmodSync(code, 0o646);
  expect(writes()).toBe(true);
  chownSync(code, NOBODY, 0);
  expect(writes()).toBe(true);
  expect(statSync(code).uid).toBe(0);
  const elsewhere = join(dir, 'elsewhere');
  writeFileSync(elsewhere, readFileSync(code));
  rmSync(code);
  symlinkSync(elsewhere, code);
  expect(writes()).toBe(true);
});

it('nothing is read from or written to a folder in which other users may write, and no folder is made', () => {
  const isUnused = (): void => {
    expect(launch()).toBe('first');
    expect(readdirSync(folder)).toEqual([]);
  };
  chmodSync(folder, 0o775);
  isUnused();
  chmodSync(folder, 0o757);
  isUnused();
  chmodSync(folder, 0o755);
  chownSync(folder, NOBODY, 0);
  isUnused();
  chownSync(folder, 0, 0);
  const real = folder;
  folder = join(dir, 'link');
  symlinkSync(real, folder);
  isUnused();
  folder = join(dir, 'absent');
  expect(launch()).toBe('first');
  expect(existsSync(folder)).toBe(false);
});

it('a process of another user writes none', () => {
  expect(launch({ uid: NOBODY })).toBe('first');
  expect(readdirSync(folder)).toEqual([]);
});

it('code that is valid but made in a folder that others could write to is not read later', () => {
  launch();
  chmodSync(folder, 0o777);
  const before = written();
  expect(launch()).toBe('first');
  expect(written()).toBe(before);
});

it('a service that ends before it is at rest writes none', () => {
  writeService("console.log('first');", '');
  expect(launch()).toBe('first');
  expect(readdirSync(folder)).toEqual([]);
});
