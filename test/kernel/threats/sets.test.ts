/** What feeds become is what the kernel takes: real sets, in a namespace of their own. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseCidr, type Range } from '../../../src/lib/ip.js';
import {
  type MergeResult,
  mergeFeeds,
  netTexts,
  type SetMembers,
  singleTexts,
} from '../../../src/threats/merge.js';
import { haveReal, load, realFeed } from '../../pure/threats/feed-shape.js';
import { makeNetns, type Netns } from '../in-netns.js';

let ns: Netns;
beforeEach(() => {
  ns = makeNetns();
});
afterEach(() => ns[Symbol.dispose]());

function fill(members: SetMembers, family: 'inet' | 'inet6', set: string): string {
  const options = `family ${family} maxelem 2000000`;
  const out = [`create ${set}-ip hash:ip ${options}`, `create ${set}-net hash:net ${options}`];
  for (const text of singleTexts(members)) out.push(`add ${set}-ip ${text}`);
  for (const text of netTexts(members)) out.push(`add ${set}-net ${text}`);
  return `${out.join('\n')}\n`;
}

async function restore(merged: MergeResult): Promise<void> {
  const text = fill(merged.v4.members, 'inet', 'four') + fill(merged.v6.members, 'inet6', 'six');
  await ns.exec('ipset', ['restore'], { input: text });
}

const entries = (set: string): number =>
  Number(/Number of entries: (\d+)/.exec(ns.run('ipset', 'list', '-t', set))?.[1]);

function has(set: string, address: string): boolean {
  try {
    ns.run('ipset', '-q', 'test', set, address);
    return true;
  } catch {
    return false;
  }
}

/** In either set of the family. */
const blocks = (family: 'four' | 'six', address: string): boolean =>
  has(`${family}-ip`, address) || has(`${family}-net`, address);

async function merge(
  bodies: readonly (string | Uint8Array)[],
  protect: readonly Range[] = [],
): Promise<MergeResult> {
  const feeds = [];
  for (const [i, body] of bodies.entries()) {
    const outcome = await load(body);
    if (!outcome.ok) throw new Error(outcome.refusal.reason);
    feeds.push({ ...outcome.data, feed: `feed-${i}` });
  }
  return mergeFeeds({ feeds, protect: protect.map((range) => ({ label: 'protected', range })) });
}

function counts(merged: MergeResult): void {
  for (const [set, { members }] of [
    ['four', merged.v4],
    ['six', merged.v6],
  ] as const) {
    expect(entries(`${set}-ip`)).toBe(members.singles.length / members.words);
    expect(entries(`${set}-net`)).toBe(members.prefixes.length);
  }
}

describe('merged feeds in the kernel', () => {
  it('every member is taken as it is meant, both families', async () => {
    const protect = [parseCidr('198.51.100.53'), parseCidr('2001:db8::53')].flatMap((range) => range ?? []);
    const merged = await merge(
      ['198.51.100.0/24\n192.0.2.7\n203.0.113.1-203.0.113.6\n', '2001:db8::/64\n2001:db8:1::7\n192.0.2.6\n'],
      protect,
    );
    await restore(merged);
    counts(merged);
    const four = ['192.0.2.6', '192.0.2.7', '198.51.100.52', '198.51.100.53', '203.0.113.6', '203.0.113.7'];
    expect(four.filter((address) => !blocks('four', address))).toEqual(['198.51.100.53', '203.0.113.7']);
    const six = ['2001:db8::52', '2001:db8::53', '2001:db8::54', '2001:db8:1::7', '2001:db8:1::8'];
    expect(six.filter((address) => !blocks('six', address))).toEqual(['2001:db8::53', '2001:db8:1::8']);
  });

  it.skipIf(!haveReal)('half a million real addresses, counted', { timeout: 120_000 }, async () => {
    const parts = ['aa', 'ab', 'ac', 'ad', 'ae'].map((part) =>
      realFeed(`ipv4/malicious-ip_full-${part}.txt`),
    );
    const merged = await merge([
      Buffer.concat(parts),
      realFeed('ipv4/firehol_level1.netset'),
      realFeed('ipv6/x4bnet_datacenter_ipv6.txt'),
    ]);
    await restore(merged);
    counts(merged);
    for (const address of ['172.17.0.1', '10.0.0.1', '127.0.0.53', '8.8.8.8', '224.0.0.251'])
      expect([address, blocks('four', address)]).toEqual([address, false]);
  });
});
