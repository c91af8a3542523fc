/** A compose project of six services as people have them, and the traffic between them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ProbeResult, parseProbe } from '../lab/container.js';
import { nodeMounts } from '../lab/images.js';
import type { Lab } from '../lab/lab.js';
import { type Result, run } from '../lab/process.js';

const PROGRAM = join(import.meta.dirname, 'inside.mjs');
const listen = (...ports: readonly number[]): string[] => [
  'node',
  '/inside.mjs',
  'listen',
  ...ports.map(String),
];
export type Step = readonly [service: string, ...probe: (string | number)[]];

/** `docker compose` with a project made of what the lab has. */
export class Shop {
  readonly #lab: Lab;
  readonly #file: string;

  private constructor(lab: Lab, file: string) {
    this.#lab = lab;
    this.#file = file;
  }

  static async prepare(lab: Lab, image: string): Promise<Shop> {
    const mounts = (await nodeMounts()).filter((word) => word !== '-v');
    const service = (ports: readonly number[], more: Readonly<Record<string, unknown>> = {}) => ({
      image,
      volumes: [...mounts, `${PROGRAM}:/inside.mjs:ro`],
      stop_grace_period: '0s',
      ...(ports.length > 0 ? { command: listen(...ports) } : {}),
      ...more,
    });
    const services = {
      proxy: service([8000], { ports: ['8080:8000'] }),
      web: service([8000]),
      worker: service([]),
      db: service([5432]),
      queue: service([5672]),
      monitoring: service([], { extra_hosts: ['host.docker.internal:host-gateway'] }),
    };
    const folder = join(lab.dir, 'shop');
    mkdirSync(folder, { recursive: true });
    const file = join(folder, 'compose.json');
    writeFileSync(file, JSON.stringify({ name: 'shop', services }));
    return new Shop(lab, file);
  }

  run(...args: readonly string[]): Promise<Result> {
    const env = { ...process.env, DOCKER_CONFIG: join(this.#lab.dir, 'shop', 'client') };
    const host = ['docker', '-H', `unix://${this.#lab.socketPath}`];
    return run([...host, 'compose', '-f', this.#file, ...args], { env, check: true, timeoutMs: 120_000 });
  }

  /** Steps that did not work, as "SERVICE WORDS…". Services act side by side. */
  async failures(steps: readonly Step[]): Promise<string[]> {
    const services = [...new Set(steps.map(([service]) => service))];
    const failed = await Promise.all(
      services.map(async (service) => {
        const bad: string[] = [];
        for (const step of steps.filter((s) => s[0] === service))
          if (!isDone(await this.#probe(step))) bad.push(step.join(' '));
        return bad;
      }),
    );
    return failed.flat().sort();
  }

  async #probe([service, ...words]: Step): Promise<ProbeResult> {
    const argv = ['node', '/probe.cjs', ...words.map(String), '--timeout', '5000'];
    return parseProbe(await this.#lab.exec(`shop-${service}-1`, argv));
  }
}

const isDone = ({ ok, addresses }: ProbeResult): boolean => ok && addresses?.length !== 0;
