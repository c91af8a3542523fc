/** The kernel's rules, told apart: ours, and what others own. */
import { PASSING, snapshotTables } from '../lab/kernel-snapshot.js';
import type { Lab } from '../lab/lab.js';

const TOOLS = ['iptables', 'ip6tables'] as const;
/** Harmless rules of a stranger where our own hooks are and where they are not. */
const FOREIGN = [
  ['filter', 'DOCKER-USER'],
  ['filter', 'INPUT'],
  ['filter', 'FORWARD'],
  ['filter', 'OUTPUT'],
  ['nat', 'PREROUTING'],
  ['nat', 'POSTROUTING'],
  ['mangle', 'FORWARD'],
  ['mangle', 'PREROUTING'],
  ['mangle', 'OUTPUT'],
  ['nat', 'OUTPUT'],
  ['raw', 'PREROUTING'],
  ['security', 'FORWARD'],
] as const;
const FOREIGN_NFT = `table inet stranger {
  set kept { type ipv4_addr; elements = { 198.18.0.1, 198.18.0.2 } }
  chain seen { type filter hook forward priority 5; policy accept; ip saddr @kept counter return; }
}`;

/** Two rules in each place, one before and one behind what stands there, an ipset and an nft table. */
export async function placeForeign(lab: Lab): Promise<void> {
  for (const tool of TOOLS)
    for (const [table, chain] of FOREIGN)
      for (const [verb, n] of [
        ['-I', 1],
        ['-A', 2],
      ] as const) {
        const comment = `stranger-${table}-${chain}-${n}`;
        const match = ['-p', 'udp', '--dport', String(60_000 + n), '-m', 'comment', '--comment', comment];
        await lab.inHost([tool, '-w', '-t', table, verb, chain, ...match, '-j', 'RETURN'], { check: true });
      }
  await lab.inHost(['ipset', 'restore', '-exist'], {
    check: true,
    input: 'create stranger hash:net\nadd stranger 198.18.0.0/24\nadd stranger 198.18.2.0/24\n',
  });
  await lab.inHost(['nft', '-f', '-'], { check: true, input: FOREIGN_NFT });
}

export interface Kernel {
  /** "ip filter DOCKER-USER -A …", in order. */
  readonly ours: readonly string[];
  readonly others: readonly string[];
}
/** Members that come and go by themselves: who was cut, and our sign of life. */
const RESTLESS = /^add DB-(cut|alive)/;

const listTable = async (lab: Lab, table: string): Promise<string> =>
  (await lab.inHost(['nft', '--stateless', 'list', 'table', ...table.split(' ')])).stdout;
/** Of our own tables those that stand, in this order. */
async function ownTables(lab: Lab): Promise<string> {
  const tables = (await lab.inHost(['nft', '--stateless', 'list', 'tables'])).stdout.split('\n');
  const all = ['arp drawbridge', 'bridge drawbridge', 'inet drawbridge_backstop', 'inet drawbridge_host'];
  const own = all.filter((t) => tables.includes(`table ${t}`));
  return (await Promise.all(own.map((t) => listTable(lab, t)))).join('');
}

/** Everything that stands, rule by rule, without counters and time-outs. */
export async function readKernel(lab: Lab): Promise<Kernel> {
  const [{ iptables, ip6tables, ipset }, own, stranger] = await Promise.all([
    snapshotTables((argv) => lab.inHost(argv, { check: true })),
    ownTables(lab),
    listTable(lab, 'inet stranger'),
  ]);
  const rules = [...named('ip', iptables), ...named('ip6', ip6tables)];
  const sets = ipset.split('\n').filter((l) => l !== '' && !RESTLESS.test(l));
  const isOurs = (line: string): boolean => /\bDB-/.test(line);
  return {
    ours: [...byChain(rules.filter(isOurs).map(hooked)), ...sets.filter(isOurs).map(bare), ...elements(own)],
    others: [...rules, ...sets].filter((l) => !isOurs(l)).concat(stranger.trim().split('\n')),
  };
}

/** Our jump stands in FORWARD while Docker's to DOCKER-USER is missing. */
const hooked = (line: string): string => line.replace(/(DOCKER-USER|FORWARD) (.*-j DB-FORWARD)$/, 'HOOK $2');
/** Chains have no order among themselves, their rules have. */
const byChain = (lines: readonly string[]): string[] =>
  [...lines].sort((a, b) => (chainOf(a) < chainOf(b) ? -1 : chainOf(a) > chainOf(b) ? 1 : 0));
const chainOf = (line: string): string => /^\S+ \S+ (?::|-A )\S+/.exec(line)?.[0] ?? line;
/** The kernel seeds each set's hash anew, and lets it grow. */
const bare = (line: string): string => line.replace(/ (initval|hashsize) \S+/g, '');

/** Each line of iptables-save with family and table before it. */
function named(family: string, saved: string): string[] {
  let table = '';
  return saved.split('\n').flatMap((line) => {
    if (line.startsWith('*')) table = line.slice(1);
    return line.startsWith('*') || line === 'COMMIT' ? [] : [`${family} ${table} ${line}`];
  });
}

/** Elements wrap over lines and have no order. Those that packets add, with a limit of their own, come and go. */
const elements = (listing: string): string[] =>
  listing
    .replaceAll(/,\s+/g, '\n')
    .split('\n')
    .map((l) =>
      l
        .replace(/^\s*(elements = \{ )?/, '')
        .replace(/ \}\s*$/, '')
        .trim(),
    )
    .filter((l) => l !== '' && !PASSING.test(l))
    .sort();

/** Rules that a flush takes from others, too. */
export const inChains =
  (family: 'ip' | 'ip6', table: string, chain = '\\S+') =>
  (line: string): boolean =>
    new RegExp(`^${family} ${table} -A ${chain} `).test(line);

/** "[table, chain]" of every chain of ours. */
export const ownChains = (ours: readonly string[]): (readonly [table: string, chain: string])[] => [
  ...new Map(
    ours.flatMap((l) => {
      const [, table, chain] = /^ip6? (\S+) :(DB-\S+)/.exec(l) ?? [];
      return table && chain ? [[`${table} ${chain}`, [table, chain] as const] as const] : [];
    }),
  ).values(),
];
export const ownSets = (ours: readonly string[]): string[] =>
  ours.flatMap((l) => /^create (DB-\S+)/.exec(l)?.[1] ?? []);

/** What `placeForeign` has placed, in order. */
export const strangers = (others: readonly string[]): string[] =>
  others.filter((l) => l.includes('stranger'));

/** So many of them by chance, in their order: repairs do not differ from chain to chain. Where FULL_CHAOS is set, all. */
export function someOf<T>(all: readonly T[], most: number): readonly T[] {
  const left = [...all.keys()];
  if (process.env.FULL_CHAOS === undefined)
    while (left.length > most) left.splice(Math.floor(Math.random() * left.length), 1);
  return left.map((i) => all[i] as T);
}
