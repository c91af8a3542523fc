/** The demo: scripts/demo prepares the machine and starts this. */

import { hostStage } from './show/host-stage.js';
import { labStage } from './show/lab-stage.js';
import { bold, dim, say, seconds } from './show/print.js';
import { enter, type Stage } from './show/stage.js';
import { burst, changes, sum, tryEverything, whatGotOut } from './show/story.js';

const onHost = process.argv.includes('--host');
const keep = process.argv.includes('--keep');

const where = onHost
  ? "on this host's own Docker, network drawbridge-demo; nothing else is touched"
  : 'a Docker engine and an internet in network namespaces; nothing leaves this machine';
const began = performance.now();

async function play(stage: Stage): Promise<void> {
  say(
    dim(`stage set in ${seconds(performance.now() - began)}: Drawbridge enforces; now the containers come`),
  );
  await Promise.all(stage.cast.map((actor) => enter(stage, actor)));
  await tryEverything(stage);
  if (stage.lab) {
    await whatGotOut(stage.lab);
    await burst(stage, stage.lab);
  }
  await sum(stage);
  await changes(stage);
}

const HINT = `Go in and play: ${bold('sudo ./scripts/demo --keep')}. For your own host: README.md, "Install".`;
const KEPT = `The lab stands. ${bold('sudo scripts/lab shell demo')} is a shell on its Docker host; in it, for example:
  docker exec agent node /probe.cjs tcp pastebin.com 443
  node dist/main.js ps                    ${dim('or: explain agent github.com · allow agent github.com --for 5m · lists')}
  docker run --rm --network demo --label drawbridge.allow=github.com demo wget -O - http://github.com/
When you have finished: ${bold('sudo scripts/lab down demo')}`;

/** Ends the stage once, whoever asks first. */
function onlyOnce(down: () => Promise<void>): () => Promise<void> {
  let ended: Promise<void> | undefined;
  return () => {
    ended ??= down();
    return ended;
  };
}

say(`${bold('Drawbridge')}: ${where}`);
const setting = onHost ? hostStage() : labStage(keep);
const down = onlyOnce(async () => (await setting).down());
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    interrupted = true;
    void down().finally(() => process.exit(130));
  });
try {
  await play(await setting);
  await down();
  say(`\n${keep ? KEPT : HINT}`);
  say(dim(`${seconds(performance.now() - began)} in all`));
} catch (e) {
  process.exitCode = 1;
  if (!interrupted) process.stderr.write(`demo: ${e instanceof Error ? e.message : String(e)}\n`);
  await setting.then(down, () => undefined); // a stage that was never set has cleaned up after itself
}
