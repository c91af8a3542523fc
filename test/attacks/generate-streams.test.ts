/**
 * Conversations with real servers: ways that have a name, then generated ones for a short time. No server is asked for a site that is not permitted.
 * `npm run attacks:streams` takes longer, and makes a hit as small as it can be. STREAMS is the number of seconds, SEED the first seed.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Arena } from './generate-streams-arena.js';
import { knownWay, type Place } from './generate-streams-delivery.js';
import { described, type Outcome, runStreams, shown, summary } from './generate-streams-run.js';
import { announce, type Described, type Family, report } from './report.js';

interface Way extends Described {
  readonly way: 'multipath' | 'uncut';
  readonly place: Place;
}
const BOTH: readonly Family[] = ['v4', 'v6'];
const NO_MULTIPATH =
  'on ports where names are checked, the options are taken out of the SYN, and a segment that has them is refused';
const NO_LENGTH =
  'programs of BPF drop a packet whose header of IP tells no length; the check refuses one that contradicts its packet';
/** A listener of Go accepts Multipath TCP by default. */
const ofGo = (protocol: 'http' | 'tls'): Place => ({ server: 'caddy', protocol });
const WAYS: readonly Way[] = [
  {
    id: 'host-multipath',
    title: 'another Host in Multipath TCP, whose order of the data is not that of TCP',
    families: BOTH,
    stoppedBy: NO_MULTIPATH,
    way: 'multipath',
    place: ofGo('http'),
  },
  {
    id: 'name-multipath',
    title: 'another server name in the same way',
    families: BOTH,
    stoppedBy: NO_MULTIPATH,
    way: 'multipath',
    place: ofGo('tls'),
  },
  {
    id: 'host-uncut',
    title:
      'another Host in a frame that is still to be segmented, with total length 0; then a permitted one in its place',
    families: ['v4'],
    stoppedBy: NO_LENGTH,
    way: 'uncut',
    place: ofGo('http'),
  },
  {
    id: 'name-uncut',
    title: 'another server name in the same way',
    families: ['v4'],
    stoppedBy: NO_LENGTH,
    way: 'uncut',
    place: ofGo('tls'),
  },
];
for (const way of WAYS) announce(way);

const SECONDS = Number(process.env.STREAMS ?? 15);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

describe('generated streams', () => {
  let arena: Arena;
  let controls: Awaited<ReturnType<Arena['controls']>>;
  let outcome: Outcome;
  const tags = new Map<string, { readonly control: string; readonly held: string }>();

  beforeAll(async () => {
    arena = await Arena.open();
    controls = await arena.controls();
    await Promise.all(
      WAYS.flatMap(({ id, families, way, place }) =>
        families.map(async (family) => {
          const both = { control: arena.tag(), held: arena.tag() };
          tags.set(`${id} ${family}`, both);
          await arena.run(knownWay(way, place, both.control, family), 'free');
          await arena.run(knownWay(way, place, both.held, family), 'held');
        }),
      ),
    );
    await arena.settled();
  });
  afterAll(() => arena?.close());

  it('each server answers the permitted site, and its log has another one without a policy', () => {
    expect(controls.length).toBeGreaterThanOrEqual(30);
    expect(controls.filter((c) => !c.answered || !c.denied)).toEqual([]);
  });

  for (const way of WAYS)
    for (const family of way.families)
      it(`${way.id} ${family}: ${way.title}`, () => {
        const { control = '', held = '' } = tags.get(`${way.id} ${family}`) ?? {};
        const out = {
          control: arena.potent.has(control),
          held: arena.hits.some(({ conversation: c }) => c.tag === held),
        };
        report(way, family, 'control', out.control);
        report(way, family, 'held', out.held);
        expect(out).toEqual({ control: true, held: false });
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
