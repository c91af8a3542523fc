import { watch } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { FolderFollower } from '../../../src/namespaces/follow-folder.js';

let dir: string;
let entries: string[];
let polling: boolean[];
let gone: number;
let follower: FolderFollower | undefined;
let isExhausted: boolean;
beforeEach(async () => {
  dir = join(await mkdtemp(join(tmpdir(), 'drawbridge-follow-')), 'in');
  await mkdir(dir);
  [entries, polling, gone, isExhausted] = [[], [], 0, true];
});
afterEach(async () => {
  follower?.[Symbol.dispose]();
  await rm(join(dir, '..'), { recursive: true });
});

const exhausted = ((...args: Parameters<typeof watch>) => {
  if (isExhausted) throw Object.assign(new Error('EMFILE: too many open files, watch'), { code: 'EMFILE' });
  return watch(...args);
}) as typeof watch;
const follow = (over: { watch?: typeof watch; retryMs?: number } = {}): void => {
  follower = new FolderFollower(dir, {
    onEntry: (name) => entries.push(name),
    onGone: () => (gone += 1),
    onPolling: (is) => polling.push(is),
    pollMs: 1,
    ...over,
  });
};

it.each([
  ['watched', undefined],
  ['polled, with no inotify instance left', exhausted],
])('a folder that is %s reports what appears and what leaves, not what was there', async (_, how) => {
  await writeFile(join(dir, 'before'), '');
  follow(how && { watch: how });
  await writeFile(join(dir, 'a'), '');
  await vi.waitFor(() => expect(entries).toEqual(['a']));
  await rm(join(dir, 'before'));
  await vi.waitFor(() => expect(entries).toEqual(['a', 'before']));
  expect(polling).toEqual(how ? [true] : []);
});

it('none is missed, however close they come', async () => {
  follow({ watch: exhausted });
  const names = Array.from({ length: 50 }, (_, n) => `n${n}`);
  for (const name of names) {
    await writeFile(join(dir, name), '');
    await new Promise((resolve) => setImmediate(resolve));
  }
  await vi.waitFor(() => expect([...entries].sort()).toEqual([...names].sort()));
});

it('is watched again as soon as that is possible', async () => {
  follow({ watch: exhausted, retryMs: 5 });
  isExhausted = false;
  await vi.waitFor(() => expect(polling).toEqual([true, false]));
  await writeFile(join(dir, 'late'), '');
  await vi.waitFor(() => expect(entries).toEqual(['late']));
});

it('says that the folder is gone', async () => {
  follow({ watch: exhausted });
  await rm(dir, { recursive: true });
  await vi.waitFor(() => expect(gone).toBe(1));
  await mkdir(dir);
});

it('another failure is thrown', () => {
  expect(
    () => new FolderFollower(join(dir, 'none'), { onEntry: vi.fn(), onGone: vi.fn(), onPolling: vi.fn() }),
  ).toThrow('ENOENT');
});
