import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { SandboxFolders } from '../../../src/dns/sandbox-folders.js';

it('notes the engine of a second connection, by a scan some time after the first one', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'folders-'));
  const program = join(folder, 'dockerd'); // the name of the process is that of the link
  symlinkSync('/bin/bash', program);
  const folders = new SandboxFolders(folder, { warn: () => undefined });
  const socket = join(folder, 'docker.sock');
  const netns = join(folder, 'exec-root', 'netns');
  await folders.noteEngines(socket);
  const engine = spawn(program, ['-c', 'echo runs; read', '--', `--exec-root=${join(folder, 'exec-root')}`]);
  try {
    await new Promise((resolve) => engine.stdout.once('data', resolve));
    await folders.noteEngines(socket);
    expect([...folders]).not.toContain(netns);
    await expect.poll(() => [...folders], { timeout: 10_000 }).toContain(netns);
  } finally {
    engine.kill();
    rmSync(folder, { recursive: true });
  }
});

it('a start waits for no scan where an earlier run has noted the folder, and scans later', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'folders-'));
  const program = join(folder, 'dockerd');
  symlinkSync('/bin/bash', program);
  const socket = join(folder, 'docker.sock');
  const [noted, netns] = [join(folder, 'noted', 'netns'), join(folder, 'exec-root', 'netns')];
  new SandboxFolders(folder, { warn: () => undefined }).note(join(noted, 'sandbox'));
  const engine = spawn(program, ['-c', 'echo runs; read', '--', `--exec-root=${join(folder, 'exec-root')}`]);
  try {
    await new Promise((resolve) => engine.stdout.once('data', resolve));
    const gone = new SandboxFolders(folder, { warn: () => undefined });
    await gone.noteEnginesFirst(socket);
    expect([...gone]).toContain(netns);
    rmSync(join(folder, 'sandbox-folders.json'));
    mkdirSync(noted, { recursive: true });
    new SandboxFolders(folder, { warn: () => undefined }).note(join(noted, 'sandbox'));
    const folders = new SandboxFolders(folder, { warn: () => undefined });
    await folders.noteEnginesFirst(socket);
    expect([...folders]).not.toContain(netns);
    await folders.noteEngines(socket);
    await expect.poll(() => [...folders], { timeout: 10_000 }).toContain(netns);
  } finally {
    engine.kill();
    rmSync(folder, { recursive: true });
  }
});
