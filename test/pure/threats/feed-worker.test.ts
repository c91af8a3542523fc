/** The thread, and the checks of a feed's settings. */
import { afterAll, describe, expect, it } from 'vitest';
import { feedProblems } from '../../../src/config/feed-config.js';
import { type FeedSettings, feedSpec } from '../../../src/threats/feed-spec.js';
import { ThreatWorker } from '../../../src/threats/feed-worker-client.js';

const worker = new ThreatWorker();
afterAll(() => worker.close());

describe('the thread', () => {
  it('answers many at once, and a failure by its message', async () => {
    const broken = worker.open(Buffer.from('nonsense'));
    await expect(broken).rejects.toThrow(/cannot be unpacked/);
    const merged = await worker.merge({ feeds: [], protect: [] });
    expect([merged.entries, merged.subtracted]).toEqual([0, []]);
  });

  it('ends with what waits rejected, and starts again', async () => {
    const own = new ThreatWorker();
    const waiting = own.merge({ feeds: [], protect: [] });
    const rejected = expect(waiting).rejects.toThrow(/closed|ended/);
    await own.close();
    await rejected;
    expect((await own.merge({ feeds: [], protect: [] })).entries).toBe(0);
    await own.close();
  });
});

it('problems of a feed come with remedies', () => {
  const problems = (settings: Partial<FeedSettings>): string[] =>
    feedProblems(feedSpec({ name: 'f', url: 'https://feed.example/x', ...settings })).map(
      ({ detail }) => detail,
    );
  expect(problems({})).toEqual([]);
  expect(problems({ format: 'nope' })[0]).toMatch(/the format "nope" is not known/);
  expect(problems({ url: 'ftp://feed.example' })[0]).toMatch(/cannot be fetched/);
  expect(problems({ format: 'crowdsec' })[0]).toMatch(/startup=true/);
  expect(problems({ format: 'crowdsec', url: 'http://x.example/v1/decisions/stream?startup=true' })).toEqual(
    [],
  );
  expect(problems({ proxy: 'socks5://x.example' })[0]).toMatch(/proxy/);
});
