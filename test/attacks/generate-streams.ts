/**
 * npm run attacks:streams -- [--seconds N] [--seed S] [--server NAME] [--protocol http|tls|quic|dtls] [--first]: generated conversations with
 * real servers, by a container with one permitted site. Ends with 1 when a server was asked for another one. Needs root.
 */
import { parseArgs } from 'node:util';
import { Arena } from './generate-streams-arena.js';
import { described, runStreams, shown, shrink, summary } from './generate-streams-run.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    server: { type: 'string', multiple: true },
    protocol: { type: 'string', multiple: true },
    /** End with the first hit. */
    first: { type: 'boolean', default: false },
  },
});
const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
if (!(seconds > 0) || !Number.isSafeInteger(seed)) {
  process.stderr.write('attacks:streams: --seconds and --seed are numbers\n');
  process.exit(2);
}
const say = (text: string): void => void process.stdout.write(`${text}\n`);
say(`seed ${seed}, ${seconds} s`);
const arena = await Arena.open(values.server);
try {
  const controls = await arena.controls();
  const bad = controls.filter((c) => !c.answered || !c.denied);
  for (const { place, family, answered, denied } of bad)
    say(
      `CONTROL ${place.server} ${place.protocol} ${family}: permitted site answered: ${answered}, other site in its log: ${denied}`,
    );
  say(`${controls.length - bad.length} of ${controls.length} controls are as they should be`);
  const only = ({ protocol }: { protocol: string }): boolean => values.protocol?.includes(protocol) ?? true;
  const outcome = await runStreams(arena, { seed, seconds, only, isFirst: values.first, report: say });
  say(summary(outcome));
  for (const seen of outcome.unknown.slice(0, 20)) say(`UNKNOWN ${JSON.stringify(seen)}`);
  const kinds = new Set<string>();
  for (const { conversation, seen } of outcome.found) {
    const kind = `${conversation.way} ${conversation.server} ${conversation.protocol}`;
    if (kinds.has(kind) || kinds.size >= 12) continue;
    kinds.add(kind);
    const least = await shrink(arena, conversation);
    say(
      `${described(conversation)}: ${JSON.stringify(seen)}\n  ${least ? `smallest: ${shown(least)}` : `not again by itself: ${shown(conversation)}`}`,
    );
  }
  process.exitCode = outcome.found.length + outcome.unknown.length + bad.length === 0 ? 0 : 1;
} finally {
  await arena.close();
}
