import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { execRoots } from '../../../src/kernel/sockets.js';
import { Signal } from '../../../src/lib/current.js';
import { SandboxFolders } from '../../../src/namespaces/sandbox-folders.js';
import type { Sandboxes } from '../../../src/namespaces/sandboxes.js';

it('notes the engine of a second connection, by a scan some time after the first one', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'folders-'));
  const program = join(folder, 'dockerd'); // the name of the process is that of the link
  symlinkSync('/bin/bash', program);
  const reported: Sandboxes['reported'] = new Signal();
  const sandboxes = { execRoots, follow: () => undefined, reported };
  const folders = new SandboxFolders(folder, sandboxes, { warn: () => undefined });
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
