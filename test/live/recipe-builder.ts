/**
 * The image from which `docker buildx create --driver docker-container` makes a builder. No registry has it for a lab. With the folder of
 * `buildkitd` and `buildctl` in LAB_BUILDKIT, it is BuildKit, and steps are built. Without it, the image has substitutes for the two: the
 * builder's container is the one that buildx makes, and a process in it is taken for a step, which BuildKit runs in the same network.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';
import { run } from '../lab/process.js';

const IMAGE = 'moby/buildkit:buildx-stable-1';
const FOLDER = process.env.LAB_BUILDKIT ?? '';
export const hasBuildKit = FOLDER !== '';

const SUBSTITUTES = { '/bin/buildkitd': '#!/bin/sh\nexec sleep 1000000\n', '/bin/buildctl': '#!/bin/sh\n' };

/** BuildKit, and the runc of this machine with its libraries. */
async function programs(): Promise<Record<string, Buffer>> {
  const runc = (await run(['sh', '-c', 'command -v runc'], { check: true })).stdout.trim();
  const { stdout } = await run(['ldd', runc]);
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path);
  return {
    ...Object.fromEntries(libraries.map((path) => [path, readFileSync(path)])),
    '/bin/buildkit-runc': readFileSync(runc),
    '/bin/buildkitd': readFileSync(join(FOLDER, 'buildkitd')),
    '/bin/buildctl': readFileSync(join(FOLDER, 'buildctl')),
  };
}

export async function makeBuilderImage(lab: Lab): Promise<void> {
  await lab.image('builder:files', { files: hasBuildKit ? await programs() : SUBSTITUTES });
  const executable = 'RUN chmod 755 /bin/buildkit* /bin/buildctl && find /lib* -type f -exec chmod 755 {} +';
  const steps = [...(hasBuildKit ? [executable] : []), 'ENTRYPOINT ["buildkitd"]'];
  const input = ['FROM builder:files', ...steps, ''].join('\n');
  const env = { ...lab.view.env, DOCKER_BUILDKIT: '0' };
  await lab.dockerResult(['build', '-t', IMAGE, '-'], { input, env });
}
