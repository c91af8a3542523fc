import { describe, expect, it } from 'vitest';
import type { Question } from '../../../src/dns/exchange.js';
import { PublishedKeys } from '../../../src/dns/published-keys.js';

describe('the record of a name', () => {
  const queried: string[] = [];
  const upstream = {
    resolve: (q: Question, client: string) => {
      queried.push(`${client} ${q.name}`);
      const none = { records: [], authorities: [], authentic: false, freshUntil: 0 };
      return Promise.resolve({ rcode: 0, ...none });
    },
  };
  const keys = new PublishedKeys({
    upstream,
    isListed: () => false,
    mayQuery: (container, name) => container === 'one' && name === 'permitted.example',
    now: () => 1_000,
  });

  it('is queried on behalf of a container that may query it itself, and of no other one', async () => {
    await keys.lookUp('data.accomplice.example', 'one');
    await keys.lookUp('permitted.example', 'two');
    expect(queried).toEqual([]);
    expect(keys.of('data.accomplice.example')).toBe('unknown');
    await keys.lookUp('permitted.example', 'one');
    expect(queried).toEqual(['one permitted.example']);
    expect(keys.of('permitted.example')).toEqual(new Set());
  });
  it('stays known when a container asks that may not', async () => {
    await keys.lookUp('permitted.example', 'two');
    expect(keys.of('permitted.example')).toEqual(new Set());
  });
});
