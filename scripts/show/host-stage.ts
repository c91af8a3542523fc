/** This host's own Docker: one network and its containers, made here and removed here; nothing else is touched. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Drawbridge } from '../../test/lab/drawbridge.js';
import { run } from '../../test/lab/process.js';
import { HOST_CAST, LISTS } from './cast.js';
import { endEarlier, FOLDER } from './earlier.js';
import { say } from './print.js';
import { MARK, makeImage, type Stage } from './stage.js';

const docker: Stage['docker'] = (args, options) => run(['docker', ...args], { check: true, ...options });

function dockerSocket(): string {
  const host = process.env.DOCKER_HOST ?? 'unix:///var/run/docker.sock';
  if (!host.startsWith('unix://')) throw new Error(`DOCKER_HOST ${host} is not on this host: unset it`);
  return host.slice('unix://'.length);
}

async function mustAnswer(): Promise<void> {
  const answers = await docker(['version'], { check: false });
  if (answers.code !== 0)
    throw new Error('Docker does not answer: start it (systemctl start docker), or leave --host out');
}

async function mustBeFree(): Promise<void> {
  const other = await run(['nft', 'list', 'table', 'bridge', 'drawbridge']);
  if (other.code === 0)
    throw new Error('a Drawbridge stands on this host already: leave --host out, or: drawbridge teardown');
}

/** What bears our mark, of an earlier demo that was killed too. */
async function removeAll(): Promise<void> {
  const marked = ['--filter', `label=${MARK}`];
  const removals: readonly (readonly [readonly string[], readonly string[]])[] = [
    [
      ['ps', '-aq', ...marked],
      ['rm', '-f'],
    ],
    [
      ['network', 'ls', '-q', ...marked],
      ['network', 'rm'],
    ],
    [
      ['images', '-q', ...marked],
      ['rmi', '-f'],
    ],
  ];
  for (const [list, remove] of removals) {
    const ids = (await docker(list)).stdout.split('\n').filter((id) => id !== '');
    if (ids.length > 0) await docker([...remove, ...new Set(ids)]);
  }
}

async function leaveKernel(drawbridge: Drawbridge): Promise<void> {
  const { code, stderr } = await drawbridge.cli(['teardown']);
  await drawbridge.stop();
  if (code !== 0) throw new Error(`teardown failed: ${stderr.trim()}; the log is ${drawbridge.logFile}`);
}

export async function hostStage(): Promise<Stage> {
  const socket = dockerSocket();
  await mustAnswer();
  await endEarlier();
  await mustBeFree();
  await removeAll();
  const dir = mkdtempSync(join(tmpdir(), FOLDER));
  const inside = (argv: readonly string[], cwd = '/'): string[] => ['env', '-C', cwd, ...argv];
  const config = { networks: { manage: [MARK] } };
  const place = { dir, view: { inside, env: process.env }, dockerSocket: socket };
  const drawbridge = new Drawbridge(place, { config, lists: LISTS });
  const down = async (): Promise<void> => {
    try {
      await removeAll();
    } finally {
      await leaveKernel(drawbridge);
    }
    rmSync(dir, { recursive: true });
    say('\nteardown: the containers, their network, and every rule and set of Drawbridge are gone');
  };
  try {
    await docker(['network', 'create', '--label', `${MARK}=1`, MARK]);
    const image = await makeImage({ docker }, MARK, {});
    drawbridge.start();
    await drawbridge.ready();
    return { network: MARK, image, prefix: `${MARK}-`, drawbridge, cast: HOST_CAST, docker, down };
  } catch (e) {
    await down();
    throw e;
  }
}
