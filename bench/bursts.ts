/**
 * Is the memory that a burst leaves a leak? Rounds of the same burst (new names of many clients, containers that come and go, changes of a list,
 * denied connections), each followed by a forced collection: what is reachable then must not grow from round to round; the rest is
 * what V8 and the allocator keep for the next burst. At the end the service rests, and what it gives back by itself is shown.
 *
 * Names are forgotten within two minutes after `dns.grace`, which is short here, and answers within a minute after their TTL: reachable memory
 * goes up and down with the rounds since then. Events are kept up to 11,000 (events/event-log.ts), at some 0.2 MiB a round.
 * `npx tsx bench/bursts.ts [--rounds 10] [--names 1500] [--containers 12] [--rest 180]`, as root.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    names: { type: 'string', default: '1500' },
    containers: { type: 'string', default: '12' },
    rest: { type: 'string', default: '180' },
  },
});
const CLIENTS = 4;
/** Asks for NAMES new names in turn, and connects to a denied address. */
const CLIENT = `
const { Resolver } = require('node:dns').promises;
const [names, round, client] = process.argv.slice(1).map(Number);
const one = async (n) => new Resolver({ timeout: 4000, tries: 1 }).resolve4('n' + n + '-' + round + '-' + client + '.bursts.test').catch(() => {});
(async () => {
  for (let n = 0; n < names; n += 20)
    await Promise.all(Array.from({ length: 20 }, (_, i) => one(n + i)));
  for (let n = 0; n < 50; n++)
    await new Promise((done) => require('node:net').connect({ host: '93.184.9.' + n, port: 80 }).on('error', done).on('connect', done));
})();`;

interface Memory {
  readonly rss: number;
  readonly heapUsed: number;
  readonly external: number;
}
const MIB = 2 ** 20;
const mib = (bytes: number): string => (bytes / MIB).toFixed(1).padStart(7);

const lab = await Lab.up({ sniffer: false });
try {
  await lab.dns.set({ '*.bursts.test': { A: ['93.184.1.1', '93.184.1.2'], ttl: 1 } });
  const file = join(lab.dir, 'heap.json');
  const drawbridge = lab.drawbridge({
    config: { dns: { grace: '2s' } },
    env: { HEAP_FILE: file, NODE_OPTIONS: `--import ${join(import.meta.dirname, 'heap.mjs')}` },
  });
  await drawbridge.ready();
  const labels = { 'drawbridge.allow': '*.bursts.test' };
  const clients = await Promise.all(
    Array.from({ length: CLIENTS }, (_, n) => lab.start({ name: `client${n}`, labels })),
  );
  const memory = async (): Promise<{ readonly before: Memory; readonly after: Memory }> => {
    rmSync(file, { force: true });
    drawbridge.kill('SIGUSR2');
    await waitFor('the figures', () => existsSync(file) && readFileSync(file, 'utf8').endsWith('}}'));
    return JSON.parse(readFileSync(file, 'utf8'));
  };
  const burst = async (round: number): Promise<void> => {
    const asking = clients.map((c, n) =>
      c.exec(['node', '-e', CLIENT, values.names, String(round), String(n)]),
    );
    const numbers = Array.from({ length: Number(values.containers) }, (_, n) => n);
    await inParallel(4, numbers, async (n) => {
      const c = await lab.start({
        name: `passing${round}-${n}`,
        labels: { 'drawbridge.allow': '93.184.1.1' },
      });
      await c.remove();
      await drawbridge.writeList('burst.yaml', `allow: [ "n${n}.burst.test" ]\n`);
    });
    await Promise.all(asking);
  };
  console.log('MiB      rss, before and after  heap reachable  external');
  const reachable: number[] = [];
  const show = async (what: string): Promise<void> => {
    const { before, after } = await memory();
    reachable.push(after.heapUsed + after.external);
    const row = [before.rss, after.rss, after.heapUsed, after.external].map(mib).join('  ');
    console.log(`${what.padStart(4)}  ${row}`);
  };
  await show('0');
  for (let round = 1; round <= Number(values.rounds); round++) {
    await burst(round);
    await show(String(round));
  }
  // The first rounds compile code and fill what has a bound.
  const half = Math.ceil(reachable.length / 2);
  const most = [reachable.slice(1, half), reachable.slice(half)].map((part) => mib(Math.max(...part)));
  console.log(`reachable, heap and external, at most: ${most.join(' in the first half, ')} in the second`);
  await sleep(Number(values.rest) * 1000);
  await show('rest');
} finally {
  await lab.down();
}
