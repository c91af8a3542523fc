/**
 * Child of the crash tests: lanes that count upwards in keys of their own, each number written after the last was
 * acknowledged or refused. Says "ack KEY N", "fail CODE KEY N", and what it is told: "told KEY N". "dump" on standard
 * input: "dump JSON" with all that reads show, and its health; its end: closes.
 */
import { createInterface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { openRedisStore } from '../../../src/store/shared-store.js';
import { StoreError } from '../../../src/store/store-error.js';

const [url = '', dir = '', name = '', lanes = '4', paceMs = '0'] = process.argv.slice(2);
const say = (line: string): void => void process.stdout.write(`${line}\n`);
const note =
  (level: string) =>
  (o: object, msg?: string): void =>
    void process.stderr.write(`${name} ${level} ${msg} ${JSON.stringify(o)}\n`);
const log = { debug: () => undefined, info: note('info'), warn: note('warn'), error: note('error') };
const { store } = await openRedisStore({ url, dir, log, isLocal: () => false, waitMs: 15_000 });
let stopped = false;

store.watch(({ key, value }) => say(`told ${key} ${(value as { n: number } | undefined)?.n ?? 'gone'}`));

async function lane(l: number): Promise<void> {
  const key = `list/${name}-${l}`;
  for (let n = 1; !stopped; n++) {
    try {
      await store.put(key, { n, fill: 'x'.repeat(n % 300) });
      say(`ack ${key} ${n}`);
      if (paceMs !== '0') await wait(Number(paceMs));
    } catch (e) {
      say(`fail ${e instanceof StoreError ? e.code : String(e)} ${key} ${n}`);
      await wait(20);
    }
  }
}

const commands = createInterface({ input: process.stdin });
commands.on('line', async (line) => {
  if (line === 'stop') {
    stopped = true;
    await running;
    say('stopped');
  }
  if (line === 'dump') {
    const items = (await store.list<{ n: number }>('list/')).map((i) => [i.key, i.value.n]);
    say(`dump ${JSON.stringify({ items, health: store.health(), revision: store.revision() })}`);
  }
});
commands.on('close', async () => {
  stopped = true;
  await store.close();
  process.exit(0);
});
say('ready');
const running = Promise.all(Array.from({ length: Number(lanes) }, (_, l) => lane(l)));
