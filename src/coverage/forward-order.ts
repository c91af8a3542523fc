/** What in the chain FORWARD accepts before our rules have spoken. Pure. */

import type { SavedRule, SavedTable } from '../kernel/iptables-text.js';
import type { Family } from '../lib/ip.js';
import type { ForeignAccept } from './host-facts.js';

/** Chains jump to chains; iptables refuses loops, and nobody nests deeper. */
const MAX_DEPTH = 16;

/**
 * Rules that accept new packets from a managed bridge ahead of our jump. `bridges`: names of the managed ones. Where our
 * jump does not stand (yet), it is thought where it will be put: at the head of DOCKER-USER, else of FORWARD.
 */
export function acceptsAhead(
  filter: SavedTable,
  family: Family,
  bridges: ReadonlySet<string>,
): readonly ForeignAccept[] {
  const found: ForeignAccept[] = [];
  const stands = ['FORWARD', 'DOCKER-USER'].some((c) => filter.get(c)?.some(isOurJump));
  if (!stands && !filter.has('DOCKER-USER')) return [];
  const isPlace = (rule: SavedRule): boolean =>
    stands ? isOurJump(rule) : /(^| )-j DOCKER-USER$/.test(rule.text);
  walk(filter, isPlace, 'FORWARD', MAX_DEPTH, (chain, rule) => {
    if (concerns(rule, bridges)) found.push({ family, chain, rule });
  });
  return found;
}

/** False: our place was met, what follows comes after us. */
function walk(
  filter: SavedTable,
  isPlace: (rule: SavedRule) => boolean,
  chain: string,
  depth: number,
  onAccept: (chain: string, rule: string) => void,
): boolean {
  for (const rule of filter.get(chain) ?? []) {
    if (isPlace(rule)) return false;
    const target = /(?:^| )-[jg] (\S+)/.exec(rule.text)?.[1];
    if (target === 'ACCEPT') onAccept(chain, rule.text);
    else if (target !== undefined && filter.has(target) && depth > 0) {
      if (!walk(filter, isPlace, target, depth - 1, onAccept)) return false;
    }
  }
  return true;
}

const isOurJump = (rule: SavedRule): boolean => rule.hash !== undefined;

/** New packets, and an input interface that may be a managed bridge. */
function concerns(rule: string, bridges: ReadonlySet<string>): boolean {
  const states = /--(?:ctstate|state) (\S+)/.exec(rule)?.[1]?.split(',');
  if (states && !/! --(?:ctstate|state)/.test(rule) && !states.includes('NEW')) return false;
  const [, not, name] = /(?:^| )(! )?-i (\S+)/.exec(rule) ?? [];
  if (name === undefined) return true;
  const fits = (bridge: string): boolean =>
    name.endsWith('+') ? bridge.startsWith(name.slice(0, -1)) : bridge === name;
  return [...bridges].some((b) => (not === undefined ? fits(b) : !fits(b)));
}
