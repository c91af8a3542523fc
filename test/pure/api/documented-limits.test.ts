/** The rates of docs/api.md are those of the service, for each class of clients. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { buildServer } from '../../../src/api/api-server.js';
import { MemoryService } from './double.js';

const PAGE = readFileSync(join(import.meta.dirname, '../../../docs/api.md'), 'utf8');
const log = { debug() {}, info() {}, warn() {}, error() {} };
afterEach(() => void vi.restoreAllMocks());

/** The bursts of a row of the table: for a token, an address, and all of TCP. */
function documented(row: string): readonly number[] {
  const line = PAGE.split('\n').find((text) => text.includes(`| ${row}`)) ?? '';
  const cells = line.split('|').slice(2, 5);
  return cells.map((text) => Number(text.split(/, (?=\d)/)[1]?.replaceAll(',', '')));
}

/** How many of its requests are answered before the first 429. */
async function answered(request: (n: number) => object): Promise<number> {
  const authenticate = (secret: string) => ({ name: secret, role: 'admin' as const });
  const { context } = new MemoryService();
  const server = await buildServer({ context, log, version: '0', authenticate });
  try {
    for (let n = 0; ; n++) {
      const { statusCode, headers } = await server.inject(request(n));
      if (statusCode !== 429) continue;
      expect(headers['retry-after']).toBe('1');
      return n;
    }
  } finally {
    await server.close();
  }
}

const KINDS = { reads: { url: '/v1/lockdown' }, changes: { url: '/v1/pause', method: 'DELETE' } };
const as = (token: number, address: number): object => ({
  headers: { authorization: `Bearer t${token}` },
  remoteAddress: `192.0.2.${address}`,
});

it('a burst of each class is as long as documented', async () => {
  vi.spyOn(performance, 'now').mockReturnValue(1_000_000); // no bucket fills again
  for (const [kind, request] of Object.entries(KINDS)) {
    const counts = await Promise.all([
      answered(() => ({ ...request, ...as(1, 1) })),
      answered((n) => ({ ...request, ...as(n % 10, 1) })),
      answered((n) => ({ ...request, ...as(n % 40, n % 40) })),
    ]);
    expect([kind, counts]).toEqual([kind, documented(`${kind}: a second, burst`)]);
  }
  const [, anonymous] = /Requests without a valid token.*?burst (\d+)/s.exec(PAGE) ?? [];
  expect(await answered(() => ({ url: '/healthz' }))).toBe(Number(anonymous));
});
