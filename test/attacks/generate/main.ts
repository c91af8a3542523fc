/**
 * npm run attacks:generate [-- --seconds 60] [--seed N] [--round N] [--places bridge,host] [--moments steady,join] [--control] [--shot 'frame to=denied'] [--first] [--verbose] [--strict]: sends what a
 * container can be made to send, and evaluates what arrives anywhere by the policy. Ends with 1 when something has arrived that must not. --control: without
 * Drawbridge. --first: ends with the first hit. Needs root.
 */
import { parseArgs } from 'node:util';
import { Generator, MOMENTS, type Moment } from './run.js';
import { shotOf } from './shots.js';
import { type Place, World } from './world.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string' },
    round: { type: 'string' },
    places: { type: 'string' },
    moments: { type: 'string' },
    control: { type: 'boolean', default: false },
    shot: { type: 'string' },
    strict: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    first: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed ?? Date.now() % 1_000_000);
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const moments = MOMENTS.filter((m) => values.moments?.split(',').includes(m) ?? true) as readonly Moment[];
say(`attacks:generate: --seed ${seed}`);
await using world = await World.make();
if (!values.control) {
  await world.enforce();
  await world.resolve(['bridge']);
}
const generator = new Generator(world, {
  seed,
  seconds: Number(values.seconds),
  moments,
  ...(values.places === undefined ? {} : { places: values.places.split(',') }),
  ...(values.round === undefined ? {} : { only: [Number(values.round)] }),
  stopAtFirst: values.first,
  verbose: values.verbose,
  strict: values.strict,
  tell: say,
});
const [place = 'bridge', moment = 'steady'] = [values.places, moments.length === 1 ? moments[0] : undefined];
/** What the service said, when a path that is permitted is dead. */
const failed = async (e: Error): Promise<never> => {
  say(world.drawbridge?.logs().slice(-6_000) ?? '');
  const name = world.containers.get(place)?.name;
  if (name !== undefined) say((await world.drawbridge?.cli(['flows', name]))?.stdout ?? '');
  throw e;
};
const report = await (values.shot
  ? generator.try(place as Place, moment, shotOf(values.shot), 5)
  : generator.run()
).catch(failed);
say(
  `${report.rounds} rounds, ${report.sent} sent, permitted ones that arrived: ${JSON.stringify(report.permitted)}, ${report.found.length} hits, known: ${JSON.stringify(report.limits)}`,
);
process.exitCode = report.found.length > 0 ? 1 : 0;
