import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config/config.js';
import { formatRange } from '../../../src/lib/ip.js';
import { ageOf, alertOf } from '../../../src/threats/feed-view.js';
import { protectedSpace, withoutSpecialUse } from '../../../src/threats/protected-space.js';
import { feed } from '../api/double.js';

const config = (text: string) => {
  const read = readConfig({ file: { name: 'c.yaml', text } });
  if (!read.ok) throw new Error(JSON.stringify(read.problems));
  return read.value;
};
const nothing = { config: config(''), hostAddresses: [], networks: [], hostResolvers: [], servers: [] };

describe('what no feed may block', () => {
  it('is whatever this host lives by, in whatever way it is written', () => {
    const { ranges, names } = protectedSpace({
      config: config(
        'dns: { upstreams: ["[2001:db8::53]:5353"], zones: { corp: { upstreams: [203.0.113.53] } } }\n' +
          'api: { listen: "[2001:db8::7]:7070" }\n' +
          'threats: { exceptions: [ { to: 203.0.113.64-203.0.113.70, reason: ours }, { to: .ours.example, reason: us } ] }',
      ),
      hostAddresses: ['198.51.100.2', 'fe80::1%eth0', '::ffff:198.51.100.3'],
      networks: [{ name: 'web', subnets: ['172.18.0.1/16', 'fd00::/64'], gateways: ['172.18.0.1'] }],
      hostResolvers: ['9.9.9.9'],
      servers: [
        { address: '::ffff:198.51.100.9', port: 6379 },
        { address: 'Redis.internal', port: 6379 },
      ],
    });
    const told = ranges.map(({ label, range }) => `${formatRange(range)} ${label}`);
    expect(told).toEqual([
      '203.0.113.64-203.0.113.70 an exception: ours',
      "198.51.100.2 this host's own address",
      "fe80::1 this host's own address",
      "198.51.100.3 this host's own address",
      "172.18.0.0/16 Docker's network web",
      "fd00::/64 Docker's network web",
      "172.18.0.1 Docker's network web",
      '2001:db8::53 a resolver in use',
      '203.0.113.53 a resolver in use',
      '9.9.9.9 a resolver in use',
      '198.51.100.9 Redis',
      "2001:db8::7 the API's listener",
    ]);
    expect(names).toEqual([
      { label: 'an exception: us', name: 'ours.example', match: 'both' },
      { label: 'Redis', name: 'redis.internal', match: 'exact' },
    ]);
  });

  it('is nothing new where special-use space covers it: a container’s start changes nothing', () => {
    const hostAddresses = ['10.0.0.2', 'fe80::42', 'fd00::1', '127.0.0.1', '198.51.100.2'];
    const networks = [{ name: 'web', subnets: ['172.18.0.0/16'], gateways: ['172.18.0.1'] }];
    const { ranges } = withoutSpecialUse(protectedSpace({ ...nothing, hostAddresses, networks }));
    expect(ranges.map(({ range }) => formatRange(range))).toEqual(['198.51.100.2']);
  });
});

it('an alert says what is wrong with a feed, and how old what is in force is', () => {
  const now = Date.parse('2030-01-01T00:00:00.000Z');
  const at = (hours: number) =>
    alertOf(feed({ confirmed: new Date(now - hours * 3_600_000).toISOString() }), now);
  expect([at(0), at(2.9)]).toEqual([undefined, undefined]);
  expect(at(50)).toBe('bad: current: no host fetches it; the version in force was confirmed 2 d ago');
  const confirmed = '2029-12-31T23:00:00.000Z';
  expect(alertOf(feed({ status: 'refused', reason: 'too small', confirmed }), now)).toBe(
    'bad: refused: too small; the version in force was confirmed 1 h ago',
  );
  expect(alertOf(feed({ status: 'later', reason: 'status 429', confirmed }), now)).toBeUndefined();
  const none = { confirmed: null, loaded: null };
  expect(alertOf(feed({ status: 'failed', reason: 'no answer', ...none }), now)).toMatch(
    /nothing of it is in force$/,
  );
  expect(alertOf(feed({ status: 'never', ...none }), now)).toBeUndefined();
  const ahead = feed({ confirmed: '2031-01-01T00:00:00.000Z' });
  expect(alertOf(ahead, now)).toBe(
    'bad: current: a clock was wrong; the version in force was confirmed at a time that is in the future by the clock of this host',
  );
  expect(ageOf(ahead, now)).toBe(Number.POSITIVE_INFINITY);
  expect(ageOf(feed({ confirmed: new Date(now + 60_000).toISOString() }), now)).toBe(0);
});
