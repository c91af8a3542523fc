// A customer: asks these URLs all the time, and never gives up on one. Plain JavaScript: it runs inside containers, alone.
// usage: client.mjs EVERY_MS URL…; prints { asked, answered, failed: [text, …] } each second.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const [everyMs, ...urls] = process.argv.slice(2);
const PATIENCE_MS = 60_000;
const state = { asked: 0, answered: 0, failed: [] };

/** Of several addresses each has failed in its own way. */
const whyOf = (e) => e.errors?.map((x) => `${x.code} ${x.address}`).join(' and ') ?? e.code ?? e.message;
const once = (url) =>
  new Promise((resolve) => {
    const request = http.get(url, { agent: false, timeout: PATIENCE_MS }, (res) => {
      res.resume();
      res.on('end', () => resolve(undefined));
      res.on('error', (e) => resolve(e.code ?? e.message));
    });
    request.on('timeout', () => request.destroy(new Error('time-out')));
    request.on('error', (e) => resolve(whyOf(e)));
  });
/** Names are asked again: with nobody to answer them there is nothing to connect to. */
async function ask(url) {
  state.asked++;
  const until = Date.now() + PATIENCE_MS;
  let why = await once(url);
  while (why === 'EAI_AGAIN' && Date.now() < until) {
    await sleep(500);
    why = await once(url);
  }
  if (why === undefined) state.answered++;
  else state.failed.push(`${url}: ${why}, ${Date.now()}`);
}
process.on('SIGTERM', () => clearInterval(asking));
let n = 0;
const asking = setInterval(() => void ask(urls[n++ % urls.length]), Number(everyMs));
setInterval(() => process.stdout.write(`${JSON.stringify(state)}\n`), 1000);
