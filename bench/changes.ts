/**
 * How long a change takes until it is in force: from the request on the API's socket to its answer, with containers that run. Grants
 * for a class of ports that the container has, and for another one; a revocation; a list that claims every container. Next to
 * them the least that a durable answer costs here: two synchronised writes, one for the audit and one for the store.
 * `npx tsx bench/changes.ts [--containers 150] [--grants 120] [--keep]`, as root.
 */
import { open } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Drawbridge } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { quantile } from './harness.js';
import { type Figure, KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    containers: { type: 'string', default: '150' },
    grants: { type: 'string', default: '120' },
  },
});
const [containers, grants] = [Number(values.containers), Number(values.grants)];
const NETWORK = 'bench';
const AT_ONCE = 6;
const WRITE_BYTES = 600;
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** One connection that stays open, as a program that makes many changes would have it. */
class Client {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #socketPath: string;

  constructor({ apiSocket }: Drawbridge) {
    this.#socketPath = apiSocket;
  }

  /** The time that it took (ms), and the answer. Throws when the request is refused. */
  async timed(method: string, path: string, body?: unknown): Promise<{ ms: number; answer: string }> {
    const began = performance.now();
    const answer = await this.#send(method, path, body);
    return { ms: performance.now() - began, answer };
  }

  #send(method: string, path: string, body: unknown): Promise<string> {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    return new Promise((resolve, reject) => {
      const sent = request(
        { socketPath: this.#socketPath, agent: this.#agent, method, path, headers },
        (res) => {
          let text = '';
          res.setEncoding('utf8');
          res.on('data', (chunk: string) => {
            text += chunk;
          });
          res.on('end', () => {
            if ((res.statusCode ?? 500) < 300) resolve(text);
            else reject(new Error(`${method} ${path}: ${res.statusCode} ${text}`));
          });
        },
      );
      sent.on('error', reject);
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

async function measured(count: number, one: (i: number) => Promise<number>): Promise<number[]> {
  const all: number[] = [];
  for (const i of numbers(count)) all.push(await one(i));
  return all;
}

/** Two writes one after the other, each durable before the next. */
async function twoWrites(folder: string): Promise<number[]> {
  await using file = await open(join(folder, 'bench'), 'w');
  const bytes = Buffer.alloc(WRITE_BYTES, 'a');
  return await measured(grants, async (i) => {
    const began = performance.now();
    for (const n of [0, 1]) {
      await file.write(bytes, 0, WRITE_BYTES, (2 * i + n) * WRITE_BYTES);
      await file.datasync();
    }
    return performance.now() - began;
  });
}

const at = (all: readonly number[], share: number): Figure => ({
  median: quantile(all, share),
  low: Math.min(...all),
  high: Math.max(...all),
  rounds: all.length,
});

const lab = await Lab.up({ sniffer: false, onDisk: true });
try {
  await lab.docker('network', 'create', NETWORK);
  await inParallel(AT_ONCE, numbers(containers), (i) =>
    lab.docker(
      ...['run', '-d', '--name', `c${i}`, '--network', NETWORK],
      ...['--label', 'drawbridge.allow=api.example.com:443, 93.184.1.1:80'],
      ...[lab.images.busybox, 'sleep', '100000'],
    ),
  );
  const service = lab.drawbridge({ config: { log: { level: 'warn' } } });
  await service.ready(60_000);
  const client = new Client(service);
  const stored = async (): Promise<boolean> =>
    (await client.timed('GET', '/v1/containers')).answer.includes(`"c${containers - 1}"`);
  await waitFor('all containers to be listed', stored, 30_000);
  const grant =
    (entry: (i: number) => string, ids: string[] = []) =>
    async (i: number) => {
      const path = `/v1/containers/c${i % containers}/grants`;
      const { ms, answer } = await client.timed('POST', path, { entry: entry(i) });
      ids.push(`${path}/${(JSON.parse(answer) as { id: string }).id}`);
      return ms;
    };
  const ids: string[] = [];
  const known = await measured(
    grants,
    grant((i) => `93.184.2.${1 + (i % 250)}:80`, ids),
  );
  const others = await measured(
    Math.ceil(grants / 4),
    grant((i) => `93.184.3.1:${5000 + i}`),
  );
  const revoked = await measured(
    Math.ceil(grants / 4),
    async (i) => (await client.timed('DELETE', ids[i] ?? '')).ms,
  );
  const allow = numbers(500).map((i) =>
    i % 2 === 0 ? `n${i}.example.com:443` : `93.184.${10 + (i % 100)}.${1 + (i % 250)}:443`,
  );
  const lists = await measured(3, async () => {
    const { ms } = await client.timed('PUT', '/v1/lists/all', { match: { network: NETWORK }, allow });
    await client.timed('DELETE', '/v1/lists/all');
    return ms;
  });
  const floor = await twoWrites(service.stateDir);
  client.close();
  const row = (id: string, label: string, all: readonly number[], share: number): Row => {
    const ours = at(all, share);
    const beside = { ...at(floor, share), label: 'two synchronised writes' };
    const ratio = ours.median / beside.median;
    return {
      ...{ id, label: `${label}, ${containers} containers`, unit: 'ms', ours, beside },
      ratio: { median: ratio, low: ratio, high: ratio, rounds: 1 },
    };
  };
  const name = `grant-${containers}`;
  await writeResult('changes', `npx tsx bench/changes.ts --containers ${containers} --grants ${grants}`, [
    row(`${name}-p50`, 'grant, median', known, 0.5),
    row(`${name}-p99`, 'grant, 99 %', known, 0.99),
    row(`${name}-class`, 'grant for other ports, median', others, 0.5),
    row(`revoke-${containers}`, 'revocation, median', revoked, 0.5),
    row('list-500', 'list of 500 entries for all', lists, 0.5),
  ]);
} finally {
  await lab.down();
}
