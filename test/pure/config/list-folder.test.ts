import { execFileSync } from 'node:child_process';
import fs, { writeFileSync } from 'node:fs';
import promises, { link, mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type FolderState, parseListFile } from '../../../src/config/list-files.js';
import { type FolderWatch, watchFolder } from '../../../src/config/list-folder.js';
import { ListReader } from '../../../src/config/list-reader.js';
import { logContained } from '../../../src/lib/faults.js';
import { Gathering } from '../../../src/policy/gathering.js';

// Modules that other tests have loaded call these, too: vi.mock would reach those alone that are loaded behind it.
const statSync = vi.spyOn(fs, 'statSync');
const readdir = vi.spyOn(promises, 'readdir');
syncBuiltinESMExports();
afterAll(() => {
  vi.restoreAllMocks();
  syncBuiltinESMExports();
});

let base = '';
let folder = '';
let watching: FolderWatch | undefined;
let told: FolderState[] = [];
let reader: ListReader;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'drawbridge-lists-'));
  folder = join(base, 'allowlists');
  told = [];
  vi.clearAllMocks();
  reader = new ListReader();
});
afterEach(async () => {
  await watching?.[Symbol.asyncDispose]();
  await reader[Symbol.asyncDispose]();
  watching = undefined;
  await rm(base, { recursive: true });
});

const write = (name: string, text: string) => writeFile(join(folder, name), text);
const start = async () => {
  watching = await watchFolder(folder, reader, (state) => told.push(state));
  return watching;
};
const allow = (name: string): readonly string[] | undefined =>
  watching?.state.lists.get(name)?.allow.map(({ canonical }) => canonical);
/** The promise is a second; a busy machine gets three. */
const soon = (check: () => void) => vi.waitFor(check, { timeout: 3_000, interval: 20 });

/** Times at which the folder was compared without reading it. */
const checks = (): number => statSync.mock.calls.filter(([path]) => path === folder).length;
/** Resolves when the folder has been compared a few times more. */
async function polled(): Promise<void> {
  const before = checks();
  await vi.waitFor(() => expect(checks()).toBeGreaterThan(before + 1), { timeout: 20_000, interval: 20 });
}

/** A reading takes a twentieth of the time at most: after one of this length, the pause is 4 seconds. */
const SLOW_MS = 200;

describe('watchFolder', () => {
  it('reads what is there before it returns', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    expect(allow('a')).toEqual(['a.org']);
    expect(told).toEqual([]);
  });

  it('calls again when a call has thrown, and goes on with later changes', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    const logged: string[] = [];
    logContained({ error: (_, message) => void logged.push(message ?? '') });
    try {
      let isBroken = true;
      watching = await watchFolder(folder, reader, (state) => {
        if (isBroken) throw new Error('an error of the callback');
        told.push(state);
      });
      await write('a.yaml', 'allow: [b.org]');
      await soon(() => expect(logged.join()).toContain('folder of lists are not in force yet'));
      isBroken = false;
      await soon(() => expect(told.at(-1)?.lists.get('a')?.allow[0]?.canonical).toBe('b.org'));
      await write('a.yaml', 'allow: [c.org]');
      await soon(() => expect(told.at(-1)?.lists.get('a')?.allow[0]?.canonical).toBe('c.org'));
    } finally {
      logContained(undefined);
    }
  });

  it('takes a saved file within a second', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    const began = performance.now();
    await write('a.yaml', 'allow: [b.org]');
    await soon(() => expect(allow('a')).toEqual(['b.org']));
    expect(performance.now() - began).toBeLessThan(2_000);
    expect(told.at(-1)).toBe(watching?.state);
  });

  it('refuses a bad file, keeps the last good one, and takes it once mended', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    await write('a.yaml', 'allow: [127.1]');
    await soon(() => expect(watching?.state.problems).toHaveLength(1));
    expect(watching?.state.problems[0]).toMatchObject({ file: join(folder, 'a.yaml'), line: 1, column: 9 });
    expect(allow('a')).toEqual(['a.org']);
    await write('a.yaml', 'allow: [c.org]');
    await soon(() => expect(allow('a')).toEqual(['c.org']));
    expect(watching?.state.problems).toEqual([]);
  });

  it('survives the ways in which editors save', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    for (const [index, name] of ['one.org', 'two.org', 'three.org'].entries()) {
      await write(`.a.yaml.${index}.tmp`, `allow: [${name}]`);
      await rename(join(folder, `.a.yaml.${index}.tmp`), join(folder, 'a.yaml'));
      await soon(() => expect(allow('a')).toEqual([name]));
    }
    await rename(join(folder, 'a.yaml'), join(folder, 'a.yaml~'));
    await write('a.yaml', 'allow: [four.org]');
    await soon(() => expect(allow('a')).toEqual(['four.org']));
  });

  it('takes new files, lets deleted ones go', async () => {
    await mkdir(folder);
    await start();
    await write('new.yml', 'allow: [n.org]');
    await soon(() => expect(allow('new')).toEqual(['n.org']));
    await unlink(join(folder, 'new.yml'));
    await soon(() => expect(allow('new')).toBeUndefined());
  });

  it('waits for a folder that is missing, and for one that comes back', async () => {
    await start();
    expect(watching?.state).toMatchObject({ problems: [] });
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await soon(() => expect(allow('a')).toEqual(['a.org']));
    await rm(folder, { recursive: true });
    await soon(() => expect(watching?.state.lists.size).toBe(0));
    await mkdir(folder);
    await write('a.yaml', 'allow: [b.org]');
    await soon(() => expect(allow('a')).toEqual(['b.org']));
    await write('a.yaml', 'allow: [c.org]');
    await soon(() => expect(allow('a')).toEqual(['c.org']));
  });

  it('follows links within the folder that are turned to another target', async () => {
    // As Kubernetes mounts a ConfigMap: a.yaml → ..data/a.yaml, ..data → ..v1
    for (const version of ['v1', 'v2']) {
      await mkdir(join(folder, `..${version}`), { recursive: true });
      await write(`..${version}/a.yaml`, `allow: [${version}.org]`);
    }
    await symlink('..v1', join(folder, '..data'));
    await symlink(join('..data', 'a.yaml'), join(folder, 'a.yaml'));
    await start();
    expect(allow('a')).toEqual(['v1.org']);
    await symlink('..v2', join(folder, '..next'));
    await rename(join(folder, '..next'), join(folder, '..data'));
    await soon(() => expect(allow('a')).toEqual(['v2.org']));
    await write('..v2/a.yaml', 'allow: [v3.org]');
    await soon(() => expect(allow('a')).toEqual(['v3.org']));
  });

  it('follows the folder itself where it is a link', async () => {
    await mkdir(join(base, 'real'));
    await symlink(join(base, 'real'), folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    expect(allow('a')).toEqual(['a.org']);
  });

  it('follows the folder where the link to it is turned to another', async () => {
    for (const name of ['one', 'two']) {
      await mkdir(join(base, name));
      await writeFile(join(base, name, 'a.yaml'), `allow: [${name}.org]`);
    }
    await symlink(join(base, 'one'), folder);
    await start();
    expect(allow('a')).toEqual(['one.org']);
    await polled();
    await symlink(join(base, 'two'), join(base, 'next'));
    await rename(join(base, 'next'), folder);
    await soon(() => expect(allow('a')).toEqual(['two.org']));
  });

  it('takes a change through another name of a file, which inotify does not report', async () => {
    await mkdir(folder);
    await writeFile(join(base, 'other'), 'allow: [a.org]');
    await link(join(base, 'other'), join(folder, 'a.yaml'));
    await start();
    await polled();
    await writeFile(join(base, 'other'), 'allow: [b.org]');
    await soon(() => expect(allow('a')).toEqual(['b.org']));
  });

  it('does not read a folder of its file system again in which nothing has changed', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    await polled();
    const before = readdir.mock.calls.length;
    await polled();
    expect(readdir).toHaveBeenCalledTimes(before);
    expect(allow('a')).toEqual(['a.org']);
  });

  it('goes on as often as before after one reading that took long', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    await polled(); // what is newer than the kernel's last tick is read again
    readdir.mockImplementationOnce((async (...args: Parameters<typeof promises.readdir>) => {
      await new Promise((resume) => setTimeout(resume, SLOW_MS));
      return promises.readdir(...args);
    }) as never);
    await write('a.yaml', 'allow: [b.org]');
    await vi.waitFor(() => expect(allow('a')).toEqual(['b.org']), { timeout: 20_000 });
    await polled(); // the first check comes after a long pause
    const before = checks();
    await vi.waitFor(() => expect(checks()).toBeGreaterThan(before + 1), { timeout: 20 * SLOW_MS });
  });

  it('reads a folder again and again in which a file is a link', async () => {
    await mkdir(folder);
    await write('.a', 'allow: [a.org]');
    await symlink('.a', join(folder, 'a.yaml'));
    await start();
    readdir.mockClear();
    await vi.waitFor(() => expect(readdir.mock.calls.length).toBeGreaterThan(2), {
      timeout: 20_000,
    });
    expect(checks()).toBe(0);
  });

  it('does not follow a link that leads out, directly or through another, and shows nothing of the file', async () => {
    const secret = 'nobody:*:19000:0:99999:7:::';
    await mkdir(folder);
    await mkdir(join(base, 'allowlists-other'));
    await writeFile(join(base, 'allowlists-other', 'shadow.yaml'), `${secret}\nroot:secret\n`);
    await writeFile(join(base, 'good'), 'allow: [out.org]');
    await symlink(join(base, 'allowlists-other', 'shadow.yaml'), join(folder, 'direct.yaml'));
    await symlink('../good', join(folder, 'good.yaml'));
    await symlink('..', join(folder, '..up'));
    await symlink(join('..up', 'good'), join(folder, 'through.yaml'));
    await start();
    expect(watching?.state.lists.size).toBe(0);
    expect(watching?.state.problems.map(({ file, detail }) => [file, detail])).toEqual(
      ['direct', 'good', 'through'].map((name) => [
        join(folder, `${name}.yaml`),
        'it is a symbolic link to a file outside of the folder, which is not followed',
      ]),
    );
    expect(JSON.stringify(watching?.state)).not.toMatch(/nobody|secret|out\.org/);
  });

  it('takes a link once it leads into the folder', async () => {
    await mkdir(folder);
    await writeFile(join(base, 'out'), 'allow: [out.org]');
    await symlink(join(base, 'out'), join(folder, 'a.yaml'));
    await start();
    expect(allow('a')).toBeUndefined();
    await write('.in', 'allow: [in.org]');
    await symlink('.in', join(folder, '.next'));
    await rename(join(folder, '.next'), join(folder, 'a.yaml'));
    await soon(() => expect(allow('a')).toEqual(['in.org']));
    expect(watching?.state.problems).toEqual([]);
  });

  it('does not read devices', async () => {
    await mkdir(folder);
    await symlink('/dev/zero', join(folder, 'a.yaml'));
    execFileSync('mkfifo', [join(folder, '.pipe')]);
    await symlink('.pipe', join(folder, 'b.yaml'));
    await start();
    expect(watching?.state.problems.map(({ detail }) => detail)).toEqual([
      'it is a symbolic link to a file outside of the folder, which is not followed',
      'it is not a regular file',
    ]);
  });

  it('shows no lines of a file that is no list', async () => {
    const lines = 'root:$y$j9T$abcdefgh:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n';
    for (const text of [
      lines,
      lines.replaceAll(':::', ': x'),
      `- ${lines}`,
      `"${lines}`,
      `{${lines}`,
      `? [${lines}`,
    ]) {
      const parsed = parseListFile('l.yaml', text);
      expect(parsed.ok).toBe(false);
      expect(JSON.stringify(parsed)).not.toMatch(/abcdefgh|99999/);
    }
  });

  it('reads only what has changed, and large files in a thread', async () => {
    const large = `allow:\n${Array.from({ length: 3_000 }, (_, i) => `  - host${i}.org\n`).join('')}`;
    await mkdir(folder);
    await write('large.yaml', large);
    await write('small.yaml', 'allow: [a.org]');
    await write('other.yaml', 'allow: [a.org]');
    await start();
    const before = new Map(watching?.state.lists);
    expect([before.get('large')?.allow.length, reader.inThread]).toEqual([3_000, 1]);
    await write('small.yaml', 'allow: [b.org]');
    await soon(() => expect(allow('small')).toEqual(['b.org']));
    expect(watching?.state.lists.get('large')).toBe(before.get('large'));
    expect(watching?.state.lists.get('other')).toBe(before.get('other'));
    expect(reader.inThread).toBe(1);
    await write('large.yaml', `${large}  - 127.1\n`);
    await vi.waitFor(
      () =>
        expect(watching?.state.problems).toMatchObject([{ file: join(folder, 'large.yaml'), line: 3_002 }]),
      { timeout: 30_000 }, // the thread may start again, from sources
    );
    expect(watching?.state.lists.get('large')).toBe(before.get('large'));
  });

  it('does not let other files wait for a large one that takes long', async () => {
    await mkdir(folder);
    await start();
    let end = (): void => undefined;
    vi.spyOn(reader, 'file').mockImplementation(
      () => new Promise((resolve) => (end = () => resolve({ ok: false, problems: [] }))),
    );
    await write('large.yaml', `allow: [${'a.org, '.repeat(3_000)}]`);
    await soon(() => expect(watching?.state.absent.get('large')?.detail).toMatch(/still being read/));
    await write('small.yaml', 'allow: [a.org]');
    await soon(() => expect(allow('small')).toEqual(['a.org']));
    end();
  });

  it('keeps what is in force when there are too many files, and says which are not read', async () => {
    await mkdir(folder);
    await write('zlast.yaml', 'allow: [a.org]');
    await start();
    for (let i = 0; i < 2_000; i++)
      writeFileSync(join(folder, `l${String(i).padStart(4, '0')}.yaml`), '{ allow: [b.org] }');
    await vi.waitFor(() => expect(watching?.state.lists.size).toBe(2_000), { timeout: 30_000 });
    expect(allow('zlast')).toEqual(['a.org']);
    expect(watching?.state.problems).toMatchObject([
      { file: folder, detail: 'the folder has more than 2000 list files: 1 are not read (l1999)' },
    ]);
    const note = watching?.state.absent.get('l1999');
    expect(note?.detail).toBe(
      'list "l1999" adds nothing: the folder has more than 2000 list files, and this one is not read',
    );
    const gathering = new Gathering(new Map(), 0, undefined, watching?.state.absent);
    gathering.addList('l1999', (list) => ({ kind: 'list', name: list }));
    expect(gathering.notes).toMatchObject([{ detail: note?.detail, remedy: note?.remedy }]);
  });

  it('tells of what cannot be read, and keeps what was', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    await unlink(join(folder, 'a.yaml'));
    await mkdir(join(folder, 'a.yaml'));
    await soon(() => expect(watching?.state.problems).toHaveLength(1));
    expect(allow('a')).toEqual(['a.org']);
    expect(watching?.state.absent.size).toBe(0);
  });

  it('does not wait for a pipe', async () => {
    await mkdir(folder);
    execFileSync('mkfifo', [join(folder, 'p.yaml')]);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    expect(allow('a')).toEqual(['a.org']);
    expect(watching?.state.problems).toMatchObject([
      { file: join(folder, 'p.yaml'), detail: 'it is not a regular file' },
    ]);
    await write('a.yaml', 'allow: [b.org]');
    await soon(() => expect(allow('a')).toEqual(['b.org']));
  });

  it('says nothing once it has ended', async () => {
    await mkdir(folder);
    await start();
    await watching?.[Symbol.asyncDispose]();
    const before = told.length;
    await write('a.yaml', 'allow: [a.org]');
    const other = await watchFolder(folder, reader, () => undefined);
    await other[Symbol.asyncDispose]();
    expect(told).toHaveLength(before);
  });
});
