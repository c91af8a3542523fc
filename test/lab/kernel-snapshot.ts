/** What a network namespace's packet filters hold, as text that two moments can be compared by. */
import type { Result } from './process.js';

export interface KernelSnapshot {
  readonly iptables: string;
  readonly ip6tables: string;
  readonly ipset: string;
  readonly nft: string;
}
type Exec = (argv: readonly string[]) => Promise<Result>;

/** Drops comments (they carry the date) and the counters of chains and rules. */
const stripIptables = (text: string): string =>
  text
    .split('\n')
    .filter((l) => l !== '' && !l.startsWith('#'))
    .map((l) => l.replace(/\[\d+:\d+\] ?/, '').trimEnd())
    .join('\n');

/** `ipset save`, members sorted within their set, without what runs by itself (time-outs, counters). */
function stripIpset(text: string): string {
  const lines = text.split('\n').filter((l) => l !== '');
  const clean = lines.map((l) =>
    l.startsWith('add ')
      ? l.replace(/ (timeout|packets|bytes) \d+/g, '').replace(/ comment "drawbridge-store .*/, '')
      : l,
  );
  const creates = clean.filter((l) => l.startsWith('create ')).sort();
  return [...creates, ...clean.filter((l) => l.startsWith('add ')).sort()].join('\n');
}

/** An element that a packet has added to a set of the bridge table: it goes after some seconds. */
export const PASSING = /(^|[{\s])("[^"]+"|\d+) limit rate over /;

const stripNft = (text: string): string =>
  text
    .split('\n')
    .filter((l) => !l.startsWith('#') && !PASSING.test(l))
    .map((l) => l.replace(/ expires [0-9a-z]+/g, '').replace(/counter packets \d+ bytes \d+/g, 'counter'))
    .join('\n')
    .trim();

/** All but nft, whose list shows the chains of iptables once more. */
export async function snapshotTables(exec: Exec): Promise<Omit<KernelSnapshot, 'nft'>> {
  const [iptables, ip6tables, ipset] = await Promise.all([
    exec(['iptables-save']),
    exec(['ip6tables-save']),
    exec(['ipset', 'save']),
  ]);
  return {
    iptables: stripIptables(iptables.stdout),
    ip6tables: stripIptables(ip6tables.stdout),
    ipset: stripIpset(ipset.stdout),
  };
}

export async function snapshotKernel(exec: Exec): Promise<KernelSnapshot> {
  const [tables, nft] = await Promise.all([
    snapshotTables(exec),
    exec(['nft', '--stateless', 'list', 'ruleset']),
  ]);
  return { ...tables, nft: stripNft(nft.stdout) };
}
