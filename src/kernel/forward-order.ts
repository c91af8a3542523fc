/** What in the chain FORWARD accepts before our rules have spoken. Pure. */

import type { ForeignAccept } from '../model/host-facts.js';
import type { Family } from '../model/ip.js';
import type { SavedRule, SavedTable } from './iptables-text.js';

/** Chains jump to chains; iptables refuses loops, and nobody nests deeper. */
const MAX_DEPTH = 16;

/**
 * Rules that accept new packets from a managed bridge ahead of our jump. `bridges`: names of the managed ones. When our
 * jump does not stand at all, everything that accepts is ahead of it.
 */
export function acceptsAhead(
  filter: SavedTable,
  family: Family,
  bridges: ReadonlySet<string>,
): readonly ForeignAccept[] {
  const found: ForeignAccept[] = [];
  walk(filter, 'FORWARD', MAX_DEPTH, (chain, rule) => {
    if (concerns(rule, bridges)) found.push({ family, chain, rule });
  });
  return found;
}

/** False: our jump was met, what follows comes after us. */
function walk(
  filter: SavedTable,
  chain: string,
  depth: number,
  onAccept: (chain: string, rule: string) => void,
): boolean {
  for (const rule of filter.get(chain) ?? []) {
    if (isOurJump(rule)) return false;
    const target = /(?:^| )-[jg] (\S+)/.exec(rule.text)?.[1];
    if (target === 'ACCEPT') onAccept(chain, rule.text);
    else if (target !== undefined && filter.has(target) && depth > 0) {
      if (!walk(filter, target, depth - 1, onAccept)) return false;
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
