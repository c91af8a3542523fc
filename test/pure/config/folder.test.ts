import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type FolderWatch, watchFolder } from '../../../src/config/folder.js';
import type { FolderState } from '../../../src/config/list-files.js';

let base = '';
let folder = '';
let watching: FolderWatch | undefined;
let told: FolderState[] = [];

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'drawbridge-lists-'));
  folder = join(base, 'allowlists');
  told = [];
});
afterEach(async () => {
  await watching?.[Symbol.asyncDispose]();
  watching = undefined;
  await rm(base, { recursive: true });
});

const write = (name: string, text: string) => writeFile(join(folder, name), text);
const start = async () => {
  watching = await watchFolder(folder, (state) => told.push(state));
  return watching;
};
const allow = (name: string): readonly string[] | undefined =>
  watching?.state.lists.get(name)?.allow.map(({ canonical }) => canonical);
/** The promise is a second; a busy machine gets three. */
const soon = (check: () => void) => vi.waitFor(check, { timeout: 3_000, interval: 20 });

describe('watchFolder', () => {
  it('reads what is there before it returns', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    expect(allow('a')).toEqual(['a.org']);
    expect(told).toEqual([]);
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

  it('follows links that are turned to another target', async () => {
    await mkdir(folder);
    await writeFile(join(base, 'v1'), 'allow: [v1.org]');
    await writeFile(join(base, 'v2'), 'allow: [v2.org]');
    await symlink(join(base, 'v1'), join(folder, 'a.yaml'));
    await start();
    expect(allow('a')).toEqual(['v1.org']);
    await symlink(join(base, 'v2'), join(folder, '.next'));
    await rename(join(folder, '.next'), join(folder, 'a.yaml'));
    await soon(() => expect(allow('a')).toEqual(['v2.org']));
    await writeFile(join(base, 'v2'), 'allow: [v3.org]');
    await soon(() => expect(allow('a')).toEqual(['v3.org']));
  });

  it('tells of what cannot be read, and keeps what was', async () => {
    await mkdir(folder);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    await unlink(join(folder, 'a.yaml'));
    await mkdir(join(folder, 'a.yaml'));
    await soon(() => expect(watching?.state.problems).toHaveLength(1));
    expect(allow('a')).toEqual(['a.org']);
  });

  it('does not wait for a pipe', async () => {
    await mkdir(folder);
    execFileSync('mkfifo', [join(folder, 'p.yaml')]);
    await write('a.yaml', 'allow: [a.org]');
    await start();
    expect(allow('a')).toEqual(['a.org']);
    expect(watching?.state.problems).toMatchObject([
      { file: join(folder, 'p.yaml'), detail: 'it is no file' },
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
    const other = await watchFolder(folder, () => undefined);
    await other[Symbol.asyncDispose]();
    expect(told).toHaveLength(before);
  });
});
