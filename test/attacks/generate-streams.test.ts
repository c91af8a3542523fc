/**
 * Generated conversations with real servers, for a short time: no server is asked for a site that is not permitted. `npm run attacks:streams` takes longer, and makes
 * a hit as small as it can be. STREAMS is the number of seconds, SEED the first seed.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Arena } from './generate-streams-arena.js';
import { described, type Outcome, runStreams, shown, summary } from './generate-streams-run.js';

const SECONDS = Number(process.env.STREAMS ?? 15);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

describe('generated streams', () => {
  let arena: Arena;
  let controls: Awaited<ReturnType<Arena['controls']>>;
  let outcome: Outcome;

  beforeAll(async () => {
    arena = await Arena.open();
    controls = await arena.controls();
  });
  afterAll(() => arena?.close());

  it('each server answers the permitted site, and its log has another one without a policy', () => {
    expect(controls.length).toBeGreaterThanOrEqual(30);
    expect(controls.filter((c) => !c.answered || !c.denied)).toEqual([]);
  });

  it(
    `no server is asked for another site (seed ${SEED})`,
    async () => {
      outcome = await runStreams(arena, { seed: SEED, seconds: SECONDS });
      console.log(`seed ${SEED}\n${summary(outcome)}`);
      const hits = outcome.found.map(({ conversation, seen }) => ({
        by: described(conversation),
        seen,
        what: shown(conversation),
      }));
      expect(hits).toEqual([]);
      expect(outcome.unknown).toEqual([]);
    },
    SECONDS * 1_000 + 240_000,
  );

  it('servers take a part of what is generated, and answer a part of what is checked', () => {
    expect(outcome.conversations).toBeGreaterThan(100);
    expect(outcome.twins).toBeGreaterThan(20);
    expect(outcome.potent / outcome.twins).toBeGreaterThan(0.2);
    expect(outcome.answered / outcome.conversations).toBeGreaterThan(0.1);
  });
});
