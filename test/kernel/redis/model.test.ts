import { expect, it } from 'vitest';
import { Dice, Fleet } from './model.js';

const KEYS = ['list/a', 'list/b', 'list/c'];
const HOSTS = 3;
const STEPS = 14;
/** Fleets that are tried, some at a time. */
const FLEETS = Number(process.env.FLEETS ?? 8);
const AT_ONCE = 4;
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** One fleet: changes by hosts at random, with a fault before one of their commands. Returns what broke the rules. */
async function tried(seed: number): Promise<string[]> {
  const dice = new Dice(seed);
  await using fleet = await Fleet.open(HOSTS);
  const faults: Record<string, () => Promise<void>> = {
    flush: () => fleet.flush(),
    restart: () => fleet.restart(),
    failover: () => fleet.failover(),
    'an older copy': () => fleet.restore(dice),
  };
  for (const key of KEYS) fleet.begin(0, key, 'put');
  await fleet.settled();
  for (let step = 0; step < STEPS; step++) {
    for (const [i] of fleet.hosts.entries()) await comeAndGo(fleet, dice, i);
    if (dice.roll(3) === 0) await noted(fleet, 'lag', () => fleet.lag());
    if (dice.roll(3) === 0) await noted(fleet, 'copy', () => fleet.copy());
    const name = dice.of(Object.keys(faults));
    if (dice.roll(3) > 0) fleet.trap(dice.roll(14), name, faults[name] as () => Promise<void>);
    for (let n = dice.roll(4); n >= 0; n--) {
      fleet.begin(dice.of(fleet.up), dice.of(KEYS), dice.of(['put', 'put', 'if', 'delete'] as const));
      if (dice.roll(2) === 0) await fleet.settled();
    }
    if (dice.roll(4) > 0) {
      await fleet.settled();
      await fleet.spring();
    }
  }
  const broken = await fleet.verdict(KEYS).catch((e: unknown) => [String(e)]);
  return broken.length === 0 ? [] : [...broken, ...fleet.story];
}

async function comeAndGo(fleet: Fleet, dice: Dice, host: number): Promise<void> {
  const what = dice.roll(12);
  const isUp = fleet.up.includes(host);
  if (what === 0 && fleet.up.length > 1 && isUp)
    await noted(fleet, `host ${host} stops`, () => fleet.stopHost(host));
  if (what > 6 && !isUp) await noted(fleet, `host ${host} starts`, () => fleet.startHost(host));
  if (what === 1) await noted(fleet, `the link of host ${host} breaks`, async () => fleet.cut(host, true));
  if (what === 2 || what === 3)
    await noted(fleet, `the link of host ${host} is there`, async () => fleet.cut(host, false));
}
async function noted(fleet: Fleet, what: string, make: () => Promise<void>): Promise<void> {
  fleet.tell(what);
  await make();
}
it(
  'whatever happens to Redis at any command, an acknowledged change is kept and a refused one is not made',
  async () => {
    const seeds = Array.from({ length: FLEETS }, (_, i) => SEED + i);
    const lane = async (): Promise<void> => {
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift())
        expect(await tried(seed), `SEED=${seed} FLEETS=1`).toEqual([]);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
  },
  Math.max(120_000, FLEETS * 30_000),
);
