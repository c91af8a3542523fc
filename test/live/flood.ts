/** Containers that send much: the programs of flood.mjs. */
import { join } from 'node:path';
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';

const MOUNT = `${join(import.meta.dirname, 'flood.mjs')}:/flood.mjs:ro`;

export const flooder = (lab: Lab, spec: RunSpec): Promise<Container> =>
  lab.start({ ...spec, mounts: [...(spec.mounts ?? []), MOUNT] });

/** Runs a command of flood.mjs to its end. */
export async function flood<T>(c: Container, ...words: readonly (string | number)[]): Promise<T> {
  const r = await c.exec(['node', '/flood.mjs', ...words.map(String)]);
  const line = r.stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(`no result: exit ${r.code}: ${r.stdout}${r.stderr}`);
  return JSON.parse(line) as T;
}
