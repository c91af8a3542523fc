import { glob } from '../lib/glob.js';
import type { ContainerFacts, NetworkFacts } from './container.js';
import { isTrustedImage } from './labels.js';
import { isForHost } from './list-graph.js';
import { isOwnLabel } from './own-labels.js';
import type { List, ListMatch, Mode } from './policy.js';

/** A list that claims the container. */
export interface Claim {
  readonly list: List;
  /** It fits only by labels that the image brings: it may tighten, and adds nothing. */
  readonly byImage: boolean;
  /** It fits only by a network in `joining`, by an event that may be late: it may tighten, and adds nothing. */
  readonly byJoining: boolean;
}

export const addsEntries = (claim: Claim): boolean => !claim.byImage && !claim.byJoining;

type Labels = Readonly<Record<string, string>>;

const fits = (pattern: string | undefined, text: string): boolean =>
  pattern === undefined || glob(pattern)(text);

type Networks = ReadonlyMap<string, NetworkFacts>;

const namesOf = (ids: readonly string[], networks: Networks): readonly string[] =>
  ids.flatMap((id) => networks.get(id)?.name ?? []);

function networkNames(facts: ContainerFacts, networks: Networks): readonly string[] {
  const ids = facts.endpoints.map((e) => e.networkId);
  const names = namesOf(ids, networks);
  return names.length > 0 ? names : [facts.networkMode];
}

function labelsFit(wanted: Labels, labels: Labels): boolean {
  return Object.entries(wanted).every(([key, pattern]) => {
    const value = Object.hasOwn(labels, key) ? labels[key] : undefined;
    return value !== undefined && glob(pattern)(value);
  });
}

function ownLabels(facts: ContainerFacts, trustImages: readonly string[]): Labels {
  if (isTrustedImage(facts, trustImages)) return facts.labels;
  return Object.fromEntries(Object.entries(facts.labels).filter(([key]) => isOwnLabel(facts, key)));
}

function placeFits(match: ListMatch, facts: ContainerFacts, names: readonly string[]): boolean {
  const network = match.network;
  const inNetwork = network === undefined || names.some((name) => glob(network)(name));
  return fits(match.name, facts.name) && fits(match.image, facts.image) && inNetwork;
}

/** Lists whose `match` fits the container (all given fields), by name. */
export function claimsOf(
  facts: ContainerFacts,
  networks: Networks,
  lists: ReadonlyMap<string, List>,
  { trustImages, node }: { readonly trustImages: readonly string[]; readonly node?: string },
): readonly Claim[] {
  const names = networkNames(facts, networks);
  const withJoining = [...names, ...namesOf(facts.joining ?? [], networks)];
  const own = ownLabels(facts, trustImages);
  const sorted = [...lists.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return sorted.flatMap((list) => {
    const { match } = list;
    if (
      !match ||
      !isForHost(list, node) ||
      !placeFits(match, facts, withJoining) ||
      !labelsFit(match.labels ?? {}, facts.labels)
    )
      return [];
    const byImage = !labelsFit(match.labels ?? {}, own);
    return [{ list, byImage, byJoining: !placeFits(match, facts, names) }];
  });
}

const STRICT: readonly Mode[] = ['enforce', 'observe', 'off'];

/** For sorting: the strictest mode first. */
export const byStrictness = (a: Mode, b: Mode): number => STRICT.indexOf(a) - STRICT.indexOf(b);

/** The strictest mode among claims, and the list that brings it; a claim without a mode enforces. */
export function strictestClaim(claims: readonly Claim[]): { mode: Mode; list: string } | undefined {
  const modes = claims
    .map((claim) => ({ mode: claim.list.mode ?? 'enforce', list: claim.list.name, adds: addsEntries(claim) }))
    .filter(({ mode, adds }) => adds || mode === 'enforce');
  return modes.sort((a, b) => byStrictness(a.mode, b.mode))[0];
}
