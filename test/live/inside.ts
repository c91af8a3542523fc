/** Containers with a part in a test: servers, programs of inside.mjs, several probes in a row. */
import { join } from 'node:path';
import { type Container, type ProbeResult, parseProbe, type RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const PROGRAM = join(import.meta.dirname, 'inside.mjs');
const MOUNT = `${PROGRAM}:/inside.mjs:ro`;
const argv = (words: readonly (string | number)[]): string[] => ['node', '/inside.mjs', ...words.map(String)];
/** A spec whose containers have /inside.mjs. */
export const withInside = (spec: RunSpec): RunSpec => ({ ...spec, mounts: [...(spec.mounts ?? []), MOUNT] });

/** A container that echoes on these TCP and UDP ports and logs who came (`visitors`). */
export async function listener(lab: Lab, ports: readonly number[], spec: RunSpec): Promise<Container> {
  const c = await lab.start({ ...withInside(spec), cmd: argv(['listen', ...ports]) });
  await waitFor('the listener', async () => (await c.logs()).match(/listening/g)?.length === ports.length);
  return c;
}
export async function visitors(c: Container, port: number): Promise<number> {
  return (await c.logs())
    .split('\n')
    .filter((l) => l.includes(`"tcp":${port},`) || l.includes(`"udp":${port},`)).length;
}

/** A command of inside.mjs as the one command of a fresh container: what it printed. */
export async function runInside<T>(
  lab: Lab,
  spec: RunSpec,
  ...words: readonly (string | number)[]
): Promise<T> {
  return parse<T>(await lab.run({ ...withInside(spec), cmd: argv(words) }));
}
/** The same in a running container that was started with `withInside`. */
export async function execInside<T>(c: Container, ...words: readonly (string | number)[]): Promise<T> {
  return parse<T>(await c.exec(argv(words)));
}
function parse<T>(r: { readonly stdout: string; readonly stderr: string; readonly code: number }): T {
  const line = r.stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{')) throw new Error(`no result: exit ${r.code}: ${r.stdout}${r.stderr}`);
  return JSON.parse(line) as T;
}

/** Several probes, one after the other, as the command of one fresh container. */
export async function probeAll(
  lab: Lab,
  spec: RunSpec,
  probes: readonly (readonly (string | number)[])[],
): Promise<ProbeResult[]> {
  const r = await lab.run({ ...spec, cmd: ['node', '/probe.cjs', 'each', JSON.stringify(probes)] });
  const printed = r.stdout.trim().split('\n');
  if (printed.length !== probes.length) throw new Error(`${probes.length} probes: ${r.stdout}${r.stderr}`);
  return printed.map((line) => parseProbe({ ...r, stdout: line }));
}
