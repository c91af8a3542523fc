/** Where the demo plays: a Docker engine, the network of its containers, and Drawbridge. */
import type { RunSpec } from '../../test/lab/container.js';
import { runArguments } from '../../test/lab/container.js';
import type { Drawbridge } from '../../test/lab/drawbridge.js';
import { buildImage, type ImageOptions } from '../../test/lab/images.js';
import type { Lab } from '../../test/lab/lab.js';
import type { Result, RunOptions } from '../../test/lab/process.js';
import type { Actor } from './cast.js';

interface DockerOptions extends RunOptions {
  /** Default true: throw when docker fails. */
  readonly check?: boolean;
}

export interface Stage {
  readonly network: string;
  readonly image: string;
  /** Before each container's name. */
  readonly prefix: string;
  readonly drawbridge: Drawbridge;
  readonly cast: readonly Actor[];
  /** Only there is somebody who sees what got out. */
  readonly lab?: Lab;
  docker(args: readonly string[], options?: DockerOptions): Promise<Result>;
  /** Takes Drawbridge out of the kernel, and all that was made; once. */
  down(): Promise<void>;
}

/** Marks everything that the demo makes in Docker. */
export const MARK = 'drawbridge-demo';

export const makeImage = (
  stage: Pick<Stage, 'docker'>,
  name: string,
  options: ImageOptions,
): Promise<string> =>
  buildImage((args, input) => stage.docker(args, { input }), name, {
    ...options,
    labels: { ...options.labels, [MARK]: '1' },
  });

/** `docker run -d` of an actor. */
export async function enter(stage: Stage, actor: Actor): Promise<void> {
  const image = actor.imageLabels
    ? await makeImage(stage, `${stage.image}-${actor.name}`, { labels: actor.imageLabels })
    : stage.image;
  const spec: RunSpec = {
    name: stage.prefix + actor.name,
    network: stage.network,
    labels: { ...actor.labels, [MARK]: '1' },
    ...(actor.args ? { args: actor.args } : {}),
    ...(actor.cmd ? { cmd: actor.cmd } : {}),
  };
  await stage.docker(['run', '-d', ...(await runArguments(spec, image))]);
}
