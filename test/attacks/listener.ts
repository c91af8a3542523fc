/** Accomplices and victims inside the lab: they write down each text that reaches them, and one may relay. */
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { type Attempt, PROGRAMS, program } from './technique.js';

export interface Listening extends RunSpec {
  readonly ports: readonly number[];
  /** This port relays to wherever the first line says. */
  readonly proxy?: number;
}
/** Nothing is enforced for it unless its labels say otherwise. */
export async function listen(lab: Lab, { ports, proxy, ...spec }: Listening): Promise<Container> {
  const relay = proxy === undefined ? [] : ['--proxy', String(proxy)];
  const c = await lab.start({
    ...spec,
    labels: spec.labels ?? { 'drawbridge.mode': 'off' },
    mounts: [...(spec.mounts ?? []), PROGRAMS],
    cmd: ['node', '/attacks/listen.mjs', ...ports.map(String), ...relay],
  });
  const wanted = 2 * ports.length + (proxy === undefined ? 0 : 1);
  await waitFor(
    `${c.name} to listen`,
    async () => (await c.logs()).match(/listening/g)?.length === wanted,
    20_000,
  );
  const [port] = ports;
  if (port !== undefined) portOf.set(c, port);
  return c;
}

/** By listener: one of its ports. */
const portOf = new WeakMap<Container, number>();
let visits = 0;
/** Whether this attempt's tag has arrived there. What has arrived before a connection of the listener's own is in its log before it. */
export async function heard(a: Attempt, c: Container): Promise<boolean> {
  const port = portOf.get(c);
  if (port === undefined) throw new Error(`${c.name} does not listen`);
  const visit = `visit ${++visits} of its own`;
  const { ok, code } = await c.probe('tcp', '127.0.0.1', port, visit, '--timeout', 10_000);
  if (!ok) throw new Error(`${c.name} does not answer itself: ${code}`);
  let log = '';
  await waitFor(`${c.name} to write down its own connection`, async () => {
    log = await c.logs();
    return log.includes(visit);
  });
  return log.includes(a.tag);
}

/** The tag in a datagram to each address, and over TCP to the first. */
export async function send(a: Attempt, to: readonly string[], port: number): Promise<void> {
  await spray(a, to, port);
  if (to[0] !== undefined) await a.attacker.probe('tcp', to[0], port, a.tag, '--timeout', 1500);
}
export const spray = (a: Attempt, to: readonly string[], port: number, more: object = {}): Promise<unknown> =>
  program(a, 'spray.mjs', JSON.stringify({ to, port, text: a.tag, ...more }));
