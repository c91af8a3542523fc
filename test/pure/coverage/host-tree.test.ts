import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { HostTree } from '../../../src/coverage/host-tree.js';
import { MountTable, parseMountInfo } from '../../../src/kernel/mount-info.js';

const MOUNTS = new MountTable(
  parseMountInfo(
    '1 0 8:1 / / rw - ext4 d rw\n2 1 0:9 / /far rw - nfs4 s:/ rw\n3 1 0:8 / /home/u/cloud rw - fuse.rclone r rw',
  ),
);
let root: string;
let tree: HostTree;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'drawbridge-tree-'));
  for (const d of ['run', 'var', 'home/a/.ssh', 'home/b', 'home/u', 'dev/disk'])
    mkdirSync(join(root, d), { recursive: true });
  writeFileSync(join(root, 'run/docker.sock'), '');
  linkSync(join(root, 'run/docker.sock'), join(root, 'run/other'));
  symlinkSync('/run', join(root, 'var/run')); // absolute: from that root
  symlinkSync('../run/docker.sock', join(root, 'home/b/s'));
  symlinkSync('/far/away/x', join(root, 'home/b/far'));
  symlinkSync('loop', join(root, 'home/b/loop'));
  tree = new HostTree(MOUNTS, root);
});
afterAll(() => rmSync(root, { recursive: true }));

const paths = async (pattern: string): Promise<string[]> => (await tree.find(pattern)).map((f) => f.path);

it('follows links from its own root, and knows what does not exist', async () => {
  expect(await paths('/var/run/docker.sock')).toEqual(['/run/docker.sock']);
  expect(await paths('/home/b/s')).toEqual([]); // "../run" of /home/b is /home/run
  expect(await paths('/home/b/../../run/./docker.sock')).toEqual(['/run/docker.sock']);
  expect(await paths('/home/b/loop')).toEqual([]);
  expect(await paths('/none')).toEqual([]);
  expect(await paths('/')).toEqual(['/']);
  const [a] = await tree.find('/run/docker.sock');
  const [b] = await tree.find('/run/other');
  expect(a?.stat?.ino).toBe(b?.stat?.ino);
});

it('a star is one whole component', async () => {
  expect(await paths('/home/*/.ssh')).toEqual(['/home/a/.ssh']);
  expect((await paths('/home/*')).sort()).toEqual(['/home/a', '/home/b', '/home/u']);
});

it('never touches what may not answer', async () => {
  // Nothing of it exists below the root: whoever had looked would have found that.
  expect(await tree.find('/far/etc')).toEqual([{ asked: '/far/etc', path: '/far/etc', stat: undefined }]);
  expect(await paths('/home/b/far')).toEqual(['/far/away/x']);
  expect(await paths('/home/u/cloud/.ssh')).toEqual(['/home/u/cloud/.ssh']);
  expect(await paths('/far/*/x')).toEqual([]);
});

it('where files cannot be read, paths are answered as they are', async () => {
  const closed = new HostTree(MOUNTS, undefined);
  expect((await closed.find('/var/run/docker.sock')).map((f) => f.path)).toEqual(['/run/docker.sock']);
  expect(await closed.find('/home/*')).toEqual([]);
});
