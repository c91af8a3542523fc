/**
 * Frames, packets and sockets as a seed makes them, from every place and at every moment, evaluated at every receiver from the bytes that arrive
 * (test/attacks/generate/). The seed and the count of rounds are fixed, so that a failure is the code's; SEED and GENERATE set others, and
 * `npm run attacks:generate` runs for as long as one likes.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Generator, type Report, tell } from './generate/run.js';
import { World } from './generate/world.js';

const SEED = Number(process.env.SEED ?? 1);
/** Each moment comes once. */
const ROUNDS = Number(process.env.GENERATE ?? 30);
/** Frames, connections, the first instruction, the host's network, an observed container. */
const CONTROL = [0, 1, 2, 3, 4];
const SLOWEST_MS = 600_000;

let world: World;
beforeAll(async () => {
  world = await World.make();
});
afterAll(() => world?.[Symbol.asyncDispose]());

const generate = (options: Partial<ConstructorParameters<typeof Generator>[1]>): Promise<Report> =>
  new Generator(world, { seed: SEED, seconds: 0, ...options }).run();

describe(`generated attacks, seed ${SEED}`, () => {
  it('control: without Drawbridge they arrive at every receiver', { timeout: SLOWEST_MS }, async () => {
    const { hits } = await generate({ only: CONTROL, explains: false });
    expect(Object.keys(hits)).toEqual(
      expect.arrayContaining(['net', 'host', 'friend', 'enemy', 'redis', 'server']),
    );
  });

  it('nothing arrives anywhere that no entry permits', { timeout: SLOWEST_MS }, async () => {
    await world.start();
    await world.enforce();
    await world.resolve(['bridge']);
    const { found, permitted } = await generate({ rounds: ROUNDS, stopAtFirst: true });
    expect(found.map((f) => tell(f, SEED))).toEqual([]);
    // a path that is dead would show nothing
    for (const place of ['bridge', 'second', 'joined', 'observed', 'macvlan', 'host'])
      expect([place, permitted[place] ?? 0]).toEqual([place, expect.toSatisfy((n: number) => n > 0)]);
  });
});
