/** Feeds through the service: real servers, store, disk and thread; only the kernel is not there. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../../src/lib/problem.js';
import { columnCount, type Direction } from '../../../src/policy/threat.js';
import { FeedHost } from './feed-host.js';
import { FeedServer } from './feed-server.js';
import { haveReal, realFeed } from './feed-shape.js';

const GOOD = `${Array.from({ length: 300 }, (_, i) => `203.0.${i >> 8}.${i & 255}`).join('\n')}\nevil.example\n`;
const BAD = '203.0.0.7';

let server: FeedServer;
let body: string | Uint8Array = GOOD;
let host: FeedHost;
beforeAll(async () => {
  server = new FeedServer();
  await server.start();
});
afterAll(() => server.close());
beforeEach(() => {
  server.answers['/feed'] = (_, response) => response.end(body);
  body = GOOD;
  host = new FeedHost();
});
afterEach(() => host[Symbol.asyncDispose]());

const feed = (more: object = {}) => ({
  name: 'feed',
  url: `${server.base}/feed`,
  format: 'plain',
  allowPrivate: true,
  timeout: '1s',
  maxSize: '100KiB',
  every: '1d',
  minInterval: '0s',
  ...more,
});
const threats = (more: object = {}, ...feeds: object[]) => ({
  threats: { feeds: feeds.length > 0 ? feeds : [feed()], ...more },
});

const soon = <T>(what: () => T) => expect.poll(what, { timeout: 15_000 });

/** What servers have sent instead of a list: the real bodies, where they are here, and more. */
const EDGE: (readonly [string, string | Uint8Array])[] = haveReal
  ? readdirSync(join(process.cwd(), '..', 'shared', 'feeds', 'edge'))
      .filter((file) => !file.startsWith('threatfox'))
      .map((file) => [`edge/${file}`, realFeed(`edge/${file}`)] as const)
  : [];
EDGE.push(
  ['zero octets', ''],
  ['a proxy’s error', 'error code: 520'],
  ['an error in JSON', '{"status":500,"message":"Internal Server Error"}'],
  ['a message', 'Could not connect: \n'],
  ['comments only', '# nothing today\n#\n'],
  ['a page', '<!doctype html><title>Log in</title>'],
  ['half of everything', `${GOOD}0.0.0.0/1\n`],
  ['a fall', '203.0.0.7\n'],
);

describe('a feed that breaks', () => {
  it('leaves its last good version in force, whatever comes; told once', async () => {
    await host.start(threats());
    expect((await host.sync('feed', false)).feed).toMatchObject({ status: 'current', entries: 301 });
    expect([host.blocks(BAD), host.blocksName('a.evil.example'), host.members]).toEqual([
      true,
      true,
      expect.any(Number),
    ]);
    const before = host.last;
    for (const [what, bad] of EDGE) {
      body = bad;
      const { feed: view } = await host.sync('feed', false);
      expect([what, view.status, view.entries, view.remedy]).toEqual([
        what,
        'refused',
        301,
        expect.stringMatching(/.{10}/),
      ]);
    }
    const paths = [
      '/500',
      '/404',
      '/403',
      '/204',
      '/cut',
      '/cut-gzip',
      '/drip',
      '/silent',
      '/endless',
      '/big',
      '/bomb',
    ];
    for (const path of [...paths, '/odd-encoding', '/garbage', '/loop', '/nowhere', '/to-file']) {
      server.answers['/feed'] = (request, response) => server.answers[path]?.(request, response);
      const { feed: view } = await host.sync('feed', false);
      expect([path, view.status, view.entries, view.reason]).toEqual([
        path,
        'failed',
        301,
        expect.stringMatching(/.{10}/),
      ]);
    }
    server.answers['/feed'] = (_, response) => response.end(body);
    expect(host.last).toBe(before);
    expect(host.blocks(BAD)).toBe(true);
    expect(host.feeds.status()).toMatchObject({
      feeds: 1,
      alerts: [
        expect.stringMatching(
          /^feed: failed: .*; the version in force was confirmed \d+ m?s ago$|^feed: failed/,
        ),
      ],
    });
    const warned = host.told(/no new version of a feed/);
    await host.sync('feed', false);
    await host.sync('feed', false);
    expect(host.told(/no new version of a feed/)).toBe(warned + 1);
    body = GOOD;
    expect((await host.sync('feed', false)).feed.status).toBe('current');
    expect([host.feeds.status().alerts, host.told(/well again/)]).toEqual([[], 1]);
  });

  it('is as it was after a restart, with its server gone', async () => {
    await host.start(threats());
    await host.sync('feed');
    await host.stop();
    server.answers['/feed'] = (_, response) => response.destroy();
    await host.start(threats());
    await soon(() => host.blocks(BAD)).toBe(true);
    await soon(() => host.feeds.views()[0]).toMatchObject({
      status: 'current',
      entries: 301,
      next: expect.any(String),
    });
    expect((await host.sync('feed', false)).feed.status).toBe('failed');
    expect([host.blocks(BAD), host.blocksName('evil.example')]).toEqual([true, true]);
    server.answers['/feed'] = (_, response) => response.end(body);
  });

  it('shrinks only when a person says so', async () => {
    await host.start(threats());
    await host.sync('feed');
    body = `${BAD}\n`;
    expect((await host.sync('feed', false)).feed.reason).toMatch(/fell from 301 to 1/);
    expect((await host.sync('feed', true)).feed).toMatchObject({ status: 'current', entries: 1 });
    expect([host.blocks(BAD), host.blocks('203.0.0.8')]).toEqual([true, false]);
  });
});

describe('what no feed may block', () => {
  it('is kept current, and reported with its reason', async () => {
    body = `${GOOD}198.51.100.0/24\n104.16.0.0/12\n3.16.0.0/12\n3.64.0.1\n8.8.8.8\nsafe.example\n`;
    host.facts = undefined;
    await host.start({
      dns: { upstreams: ['198.51.100.53'], zones: { corp: { upstreams: ['[2001:db8::53]:53'] } } },
      api: { listen: '198.51.100.70:7070', tokens: [] },
      ...threats({
        exceptions: [
          { to: '203.0.0.0/30', reason: 'our relay' },
          { to: '*.safe.example', reason: 'ours' },
        ],
      }),
    });
    await host.sync('feed');
    const spared = ['198.51.100.53', '198.51.100.70', '203.0.0.3', '104.17.2.3', '3.17.2.3', '8.8.8.8'];
    expect(spared.filter((address) => host.blocks(address))).toEqual([]);
    expect(['198.51.100.54', '203.0.0.4', '3.64.0.1'].filter((address) => !host.blocks(address))).toEqual([]);
    expect([host.blocksName('safe.example'), host.blocksName('www.safe.example')]).toEqual([true, false]);
    expect(host.feeds.check('198.51.100.53')).toMatchObject({
      verdict: 'none',
      hits: [{ feed: 'feed', listed: '198.51.100.0/24', line: 302, spared: 'a resolver in use' }],
    });
    expect(host.feeds.check('203.0.0.3').hits[0]?.spared).toBe('an exception: our relay');
    expect(host.feeds.check('www.safe.example').hits[0]?.spared).toBe('an exception: ours');
    expect(host.feeds.check('EVIL.example.')).toMatchObject({ target: 'evil.example', verdict: 'block' });
    expect(() => host.feeds.check('not a name')).toThrow(RefusedError);
    expect(host.feeds.views()[0]?.spared.map(({ label }) => label)).toEqual(
      expect.arrayContaining(['a resolver in use', "the API's listener", 'an exception: our relay']),
    );
    expect(host.feeds.views()[0]?.known).toEqual(
      expect.arrayContaining([expect.objectContaining({ label: 'Cloudflare', withheld: 2 })]),
    );
    expect(host.told(/no feed may block.*"label":"a resolver in use"/)).toBe(1);
    expect(host.told(/whole networks that many share.*"label":"Cloudflare".*"104\.16\.0\.0\/12"/)).toBe(1);
    expect(host.told(/whole networks.*"label":"Amazon Web Services"/)).toBe(1);

    // A network appears, and the host gets another address: both are free within the look.
    host.facts = {
      hostAddresses: ['198.51.100.9'],
      networks: [{ name: 'pub', subnets: ['203.0.0.130/25'], gateways: ['203.0.0.129'] }],
    };
    host.feeds.hostChanged();
    await soon(() => host.blocks('203.0.0.200')).toBe(false);
    expect([host.blocks('198.51.100.9'), host.blocks('203.0.0.127')]).toEqual([false, true]);
    expect(host.feeds.check('203.0.0.200').hits[0]?.spared).toBe("Docker's network pub");
    host.facts = { hostAddresses: [], networks: [] };
    await soon(() => host.blocks('203.0.0.200')).toBe(true);
  });

  it('changes with each thing that it is computed from', async () => {
    await host.start(threats());
    await host.sync('feed');
    await soon(() => host.blocks(BAD)).toBe(true);
    const none = host.facts;
    host.facts = { hostAddresses: [BAD], networks: none?.networks ?? [] };
    await soon(() => host.blocks(BAD)).toBe(false);
    host.facts = none;
    await soon(() => host.blocks(BAD)).toBe(true);
    const network = { name: 'pub', subnets: [`${BAD}/32`], gateways: [] };
    host.facts = { hostAddresses: none?.hostAddresses ?? [], networks: [network] };
    await soon(() => host.blocks(BAD)).toBe(false);
    host.facts = none;
    await soon(() => host.blocks(BAD)).toBe(true);
    Object.assign(host.shared, { servers: () => [{ address: BAD, port: 6379 }] });
    await soon(() => host.blocks(BAD)).toBe(false);
  });
});

describe('what is in force', () => {
  it('is published anew until it is taken; that is told', async () => {
    host.failure = new Error('the kernel says no');
    await host.start(threats());
    await expect(host.sync('feed')).rejects.toThrow(/is not in force yet: the kernel says no/);
    expect(host.published).toEqual([]);
    expect(host.feeds.status().alerts[0]).toBe('not in force: the kernel says no');
    expect(host.told(/new version of the threat feeds is not in force/)).toBe(1);
    host.failure = undefined;
    await soon(() => host.blocks(BAD)).toBe(true);
    expect([host.feeds.status().alerts, host.told(/the threats are in force/)]).toEqual([[], 1]);
  });

  it('loses what the configuration has lost, and is empty without feeds', async () => {
    const other = feed({ name: 'other', url: `${server.base}/ok` });
    await host.start(threats({}, feed(), other));
    await host.sync('feed');
    await host.sync('other');
    expect([host.blocks(BAD), host.blocks('192.0.2.7')]).toEqual([true, true]);
    await host.stop();
    await host.start(threats({}, other));
    await soon(() => host.last?.feeds).toBe(1);
    expect([host.blocks(BAD), host.blocks('192.0.2.7')]).toEqual([false, true]);
    await host.stop();
    await host.start({});
    await soon(() => host.last?.feeds).toBe(0);
    expect([host.members, host.last?.names]).toEqual([0, 0]);
  });

  it('observes what is only to be observed', async () => {
    await host.start(threats({}, feed({ action: 'observe' })));
    await host.sync('feed');
    expect([host.blocks(BAD), host.last?.look.observedAddress(BAD)?.feed]).toEqual([false, 'feed']);
    expect(host.last?.look.observedName('x.evil.example')?.feed).toBe('feed');
    expect(host.feeds.check(BAD).verdict).toBe('observe');
  });

  it('is never more than threats.maxEntries: what does not fit is left out, and said', async () => {
    const other = feed({ name: 'other', url: `${server.base}/ok` });
    await host.start(threats({ maxEntries: 302 }, feed(), other));
    await host.sync('feed');
    await host.sync('other');
    expect([host.blocks(BAD), host.blocks('192.0.2.7')]).toEqual([true, false]);
    expect(host.feeds.views()[1]).toMatchObject({
      status: 'left-out',
      reason: expect.stringMatching(/maxEntries, 302/),
    });
    expect(host.feeds.status().alerts).toEqual([expect.stringMatching(/^other: left-out/)]);
    body = GOOD.split('\n').slice(100).join('\n');
    await host.sync('feed');
    expect(host.blocks('192.0.2.7')).toBe(true);
    body = `${GOOD}${GOOD.replaceAll('203.0', '203.1')}`;
    expect((await host.sync('feed')).feed.reason).toMatch(/602? entries; 302 is the limit|302/);
    expect(host.blocks('203.0.0.150')).toBe(true);
  });

  it('counts what ranges come to: none makes more of itself than it says', async () => {
    body = '203.0.0.1-203.0.0.254\n203.0.2.1-203.0.2.254\n';
    await host.start(threats({ maxEntries: 20 }));
    expect((await host.sync('feed')).feed).toMatchObject({
      status: 'left-out',
      reason: expect.stringMatching(/its 28 members/),
    });
    expect(host.members).toBe(0);
  });

  it('of another address or format under the same name begins anew, the old version in force until then', async () => {
    await host.start(threats());
    await host.sync('feed');
    await host.stop();
    // The schedule may make the first attempt at once: it has no answer until the old version was seen.
    const waiting: (() => void)[] = [];
    let isSeen = false;
    server.answers['/other'] = (request, response) => {
      const answer = (): void => server.answers['/ok']?.(request, response);
      if (isSeen) answer();
      else waiting.push(answer);
    };
    await host.start(threats({}, feed({ url: `${server.base}/other`, timeout: '60s' })));
    await soon(() => host.blocks(BAD)).toBe(true);
    expect(host.feeds.views()[0]).toMatchObject({ status: 'never', entries: 301 });
    isSeen = true;
    for (const answer of waiting) answer();
    // Nothing is compared with the other list: this one is much smaller, and good.
    expect((await host.sync('feed', false)).feed).toMatchObject({ status: 'current', entries: 2 });
    expect([host.blocks(BAD), host.blocks('192.0.2.7')]).toEqual([false, true]);
  });

  it('of direction inbound judges who comes in, outbound where containers go, and neither the other', async () => {
    server.answers['/out'] = (_, response) => response.end('192.0.2.200\n192.0.2.77\n');
    const outbound = feed({ name: 'out', url: `${server.base}/out`, direction: 'outbound' });
    await host.start(threats({}, feed({ direction: 'inbound' }), outbound));
    await host.sync('feed');
    await host.sync('out');
    expect([host.blocks(BAD), host.blocksFrom(BAD), host.blocksName('evil.example')]).toEqual([
      false,
      true,
      false,
    ]);
    expect([host.blocks('192.0.2.77'), host.blocksFrom('192.0.2.77')]).toEqual([true, false]);
    const block = host.last?.members.block;
    const size = (direction: Direction): number => (block ? columnCount(block[direction].v4) : -1);
    expect([size('both'), size('outbound')]).toEqual([0, 2]);
    expect(size('inbound')).toBeGreaterThan(0);
    expect([host.members, host.last?.names, host.last?.feeds]).toEqual([2 + size('inbound'), 0, 2]);
    expect(host.feeds.check(BAD)).toMatchObject({
      verdict: 'block',
      hits: [{ feed: 'feed', direction: 'inbound', spared: null }],
    });
    expect(host.feeds.check('evil.example')).toMatchObject({
      verdict: 'none',
      hits: [{ spared: expect.stringMatching(/inbound: incoming connections/) }],
    });
    // What is in both ways is counted in each: neither set depends on the other.
    server.answers['/out'] = (_, response) => response.end(`192.0.2.200\n${BAD}\n`);
    await host.sync('out');
    expect([host.blocks(BAD), host.blocksFrom(BAD), host.blocksFrom('192.0.2.200')]).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('counts only on the hosts that are meant', async () => {
    await host.start({ node: 'web-1', ...threats({}, feed({ hosts: ['db-*'] })) });
    expect(host.feeds.views()).toEqual([]);
  });
});
