/** A container's policy from its labels, lists, claims, baseline and grants (docs/concepts.md). Pure. */

import { glob } from '../lib/glob.js';
import type { Problem } from '../lib/problem.js';
import type { ContainerFacts, NetworkFacts } from './container.js';
import { parseEntry } from './entry-parse.js';
import { Gathering } from './gathering.js';
import { isTrustedImage, type LabelIntent, readLabels, tame } from './labels.js';
import { grantOwners, ignoredLabels, isOwnLabel, ownerIsCertain, ownerKey, ownerKeys } from './own-labels.js';
import {
  type EntrySource,
  type Grant,
  isForHost,
  type List,
  type ListMatch,
  type Mode,
  type ModeSetting,
  Moment,
  type Policy,
} from './policy.js';

export interface PolicyInput {
  readonly facts: ContainerFacts;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  readonly lists: ReadonlyMap<string, List>;
  /** Lists that have a file and are not in force, with the reason. */
  readonly absent?: ReadonlyMap<string, Problem>;
  readonly settings: {
    readonly default: Mode;
    readonly baseline: readonly string[];
    readonly trustImages: readonly string[];
    /** This host's name, for lists of some hosts only. */
    readonly node?: string;
  };
  /** Modes set by API or CLI, by owner key. */
  readonly modes: ReadonlyMap<string, ModeSetting>;
  /** All grants; those of others are left out here. */
  readonly grants: readonly Grant[];
  /** Milliseconds since the epoch: what has expired by then is dropped. A `Moment` records until when the policy stays the same. */
  readonly now: number | Moment;
}

type ModeChoice = Pick<Policy, 'mode' | 'modeSource' | 'trialUntil' | 'against'>;

const apiMode = ({ facts, modes }: PolicyInput): ModeSetting | undefined =>
  ownerIsCertain(facts) ? modes.get(ownerKey(facts)) : undefined;

const setByApi = ({ mode, trial, against }: ModeSetting): ModeChoice => ({
  mode,
  modeSource: { kind: 'api' },
  ...(trial ? { trialUntil: trial.expires } : {}),
  ...(against ? { against } : {}),
});

/** A mode set for any owner that the labels name applies if it is stricter. Only the certain owner's mode can loosen. */
function chooseMode(input: PolicyInput, intent: LabelIntent, claims: readonly Claim[]): ModeChoice {
  const own = chooseOwnMode(input, intent, claims);
  const [strictest] = ownerKeys(input.facts)
    .flatMap((key) => input.modes.get(key) ?? [])
    .sort((a, b) => byStrictness(a.mode, b.mode));
  if (strictest === undefined || byStrictness(own.mode, strictest.mode) <= 0) return own;
  return setByApi(strictest);
}

function chooseOwnMode(input: PolicyInput, intent: LabelIntent, claims: readonly Claim[]): ModeChoice {
  const api = apiMode(input);
  if (api) return setByApi(api);
  if (intent.broken) return { mode: 'enforce', modeSource: { kind: 'broken label' } };
  if (intent.mode) return { mode: intent.mode, modeSource: { kind: 'label' } };
  const claim = strictestClaim(claims);
  if (claim) return { mode: claim.mode, modeSource: { kind: 'claim', name: claim.list } };
  if (intent.hasEntries) return { mode: 'enforce', modeSource: { kind: 'has entries' } };
  return { mode: input.settings.default, modeSource: { kind: 'default' } };
}

const fromList = (list: string): EntrySource => ({ kind: 'list', name: list });
const fromClaim = (list: string): EntrySource => ({ kind: 'claim', name: list });
const fromBaseline = (list: string): EntrySource => ({ kind: 'baseline', name: list });

/** Grants in force for the container: its own timed ones, and its owner's when the owner is certain. */
function grantsOf({ facts, grants }: PolicyInput, moment: Moment): readonly Grant[] {
  const owners = grantOwners(facts);
  return grants.filter(
    ({ owner, expires }) => owners.includes(owner) && (expires === undefined || isAhead(expires, moment)),
  );
}

/** A time that cannot be read has come. */
function isAhead(time: string, moment: Moment): boolean {
  const at = Date.parse(time);
  return !Number.isNaN(at) && !moment.hasReached(at);
}

function addGrant(gathering: Gathering, grant: Grant): void {
  const parsed = parseEntry(grant.entry);
  const source: EntrySource = { kind: 'grant', name: grant.id };
  if (parsed.ok) gathering.addEntry(parsed.value, source, () => source);
  else
    gathering.notes.push(
      ...parsed.problems.map((p) => ({
        detail: `grant ${grant.id} adds nothing: ${p.detail}`,
        remedy: p.remedy,
      })),
    );
}

function gather(input: PolicyInput, intent: LabelIntent, claims: readonly Claim[]): Gathering {
  const moment = Moment.at(input.now);
  const gathering = new Gathering(input.lists, moment, input.settings.node, input.absent);
  if (intent.broken) return gathering;
  for (const entry of intent.allow) gathering.addEntry(entry, { kind: 'label' }, fromList);
  for (const name of intent.lists) gathering.addList(name, fromList);
  for (const entry of intent.fromImage.allow) gathering.addEntry(entry, { kind: 'label' }, fromList, 'deny');
  for (const name of intent.fromImage.lists) gathering.addList(name, fromList, 'deny');
  for (const claim of claims)
    gathering.addList(claim.list.name, fromClaim, addsEntries(claim) ? 'all' : 'deny');
  for (const name of input.settings.baseline) gathering.addList(name, fromBaseline);
  for (const grant of grantsOf(input, moment)) addGrant(gathering, grant);
  return gathering;
}

/** A candidate list as the whole policy, with the baseline. Of the container's own sources deny entries alone count. */
function gatherAgainst(
  input: PolicyInput,
  intent: LabelIntent,
  claims: readonly Claim[],
  candidate: string,
): Gathering {
  const gathering = new Gathering(input.lists, input.now, input.settings.node, input.absent);
  gathering.addList(candidate, fromList);
  for (const name of input.settings.baseline) gathering.addList(name, fromBaseline);
  const own = [...intent.allow, ...intent.fromImage.allow];
  for (const entry of own) gathering.addEntry(entry, { kind: 'label' }, fromList, 'deny');
  for (const name of [...intent.lists, ...intent.fromImage.lists]) gathering.addList(name, fromList, 'deny');
  for (const { list } of claims) gathering.addList(list.name, fromClaim, 'deny');
  return gathering;
}

function claimNotes(claims: readonly Claim[]): readonly Problem[] {
  return claims
    .filter(({ byImage }) => byImage)
    .map(({ list }) => ({
      detail: `list "${list.name}" claims this container by labels that came with the image: of its entries only those that deny count`,
      remedy: 'set the label on the container, or name the image in labels.trustImages',
    }));
}

/** Notes on compose and stack labels that come with the image and have no effect. */
function ownerNotes(facts: ContainerFacts): readonly Problem[] {
  const ignored = ignoredLabels(facts).map((key) => `${key}=${tame(facts.labels[key] ?? '')}`);
  if (ignored.length === 0) return [];
  const labels = `${ignored.length === 1 ? 'label' : 'labels'} ${ignored.join(', ')}`;
  if (!facts.imageLabels)
    return [
      {
        detail: `it is not known yet whether ${labels} came with the image: until then they can only make the policy stricter`,
        remedy: 'wait; if this remains, check that Docker can still inspect the image',
      },
    ];
  return [
    {
      detail: `${labels} came with the image, not from docker compose or docker stack: they give the container no neighbours, names, grants or list entries, and a mode set for that service applies only if it is stricter`,
      remedy: 'create the container with docker compose up --force-recreate, or set other values on it',
    },
  ];
}

/** Labels that are valid and have no effect must be reported. */
function unheld(intent: LabelIntent, mode: Mode): readonly Problem[] {
  const ask = {
    detail: `its drawbridge.ask has no effect: in mode ${mode} nothing is denied that a person could be asked about`,
    remedy:
      'enforce the container (drawbridge mode CONTAINER enforce, or a label drawbridge.allow or drawbridge.lists)',
  };
  const limit = {
    detail: `its drawbridge.limit is not enforced: in mode ${mode} only threats are denied`,
    remedy:
      'enforce the container (drawbridge mode CONTAINER enforce, or a label drawbridge.allow or drawbridge.lists)',
  };
  return [
    ...(intent.limits && mode !== 'enforce' ? [limit] : []),
    ...(intent.askMs !== undefined && mode !== 'enforce' ? [ask] : []),
  ];
}

/**
 * The policy of one container. A broken drawbridge label leaves nothing allowed, grants included, and enforces unless
 * API or CLI set a mode. Members of a shared namespace (network mode container:X) are the caller's to leave out.
 */
export function compilePolicy(input: PolicyInput): Policy {
  const { facts, networks, lists, settings } = input;
  const intent = readLabels(facts, settings.trustImages);
  const claims = claimsOf(facts, networks, lists, settings);
  const choice = chooseMode(input, intent, claims);
  const gathering = choice.against
    ? gatherAgainst(input, intent, claims, choice.against.list)
    : gather(input, intent, claims);
  return {
    ...choice,
    entries: gathering.entries,
    ...deniedOf(gathering),
    lists: [...gathering.lists],
    ...(intent.limits ? { limits: intent.limits } : {}),
    ...askOf(intent, claims, choice.mode),
    notes: [
      ...intent.notes,
      ...ownerNotes(facts),
      ...claimNotes(claims),
      ...gathering.notes,
      ...unheld(intent, choice.mode),
    ],
  };
}

/** Its label decides, or the longest time of the lists that claim it. With a broken label no grant counts, so that no person is asked. */
function askOf(intent: LabelIntent, claims: readonly Claim[], mode: Mode): Pick<Policy, 'askMs'> {
  if (intent.broken || mode !== 'enforce') return {};
  const claimed = claims.filter(addsEntries).flatMap(({ list }) => list.askMs ?? []);
  const askMs = intent.askMs ?? (claimed.length > 0 ? Math.max(...claimed) : undefined);
  return askMs === undefined ? {} : { askMs };
}

const deniedOf = ({ denied }: Gathering): Pick<Policy, 'denied'> => (denied.length > 0 ? { denied } : {});

/** The policy of what is no container (`unattributed`): its mode, and the entries of its lists. */
export function compileUnattributed(
  settings: { readonly mode: Mode; readonly lists: readonly string[]; readonly node?: string },
  lists: ReadonlyMap<string, List>,
  now: number | Moment,
  absent?: ReadonlyMap<string, Problem>,
): Policy {
  const gathering = new Gathering(lists, now, settings.node, absent);
  for (const name of settings.lists) gathering.addList(name, fromList);
  const { entries, notes } = gathering;
  return {
    mode: settings.mode,
    modeSource: { kind: 'unattributed' },
    entries,
    ...deniedOf(gathering),
    lists: [...gathering.lists],
    notes,
  };
}

/** A list that claims the container. */
interface Claim {
  readonly list: List;
  /** It fits only by labels that the image brings: it may tighten, and only its deny entries count. */
  readonly byImage: boolean;
  /** It fits only by a network in `joining`, by an event that may be late: it may tighten, and only its deny entries count. */
  readonly byJoining: boolean;
}

const addsEntries = (claim: Claim): boolean => !claim.byImage && !claim.byJoining;

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

/** Lists with a `match` that fits the container (all given fields), by name. */
function claimsOf(
  facts: ContainerFacts,
  networks: Networks,
  lists: ReadonlyMap<string, List>,
  { trustImages, node }: { readonly trustImages: readonly string[]; readonly node?: string },
): readonly Claim[] {
  const claiming = [...lists.values()].filter((list) => list.match && isForHost(list, node));
  if (claiming.length === 0) return [];
  const names = networkNames(facts, networks);
  const withJoining = [...names, ...namesOf(facts.joining ?? [], networks)];
  const own = ownLabels(facts, trustImages);
  const sorted = claiming.sort((a, b) => (a.name < b.name ? -1 : 1));
  return sorted.flatMap((list) => {
    const { match } = list;
    if (!match || !placeFits(match, facts, withJoining) || !labelsFit(match.labels ?? {}, facts.labels))
      return [];
    const byImage = !labelsFit(match.labels ?? {}, own);
    return [{ list, byImage, byJoining: !placeFits(match, facts, names) }];
  });
}

const STRICT: readonly Mode[] = ['enforce', 'observe', 'off'];

/** For sorting: the strictest mode first. */
export const byStrictness = (a: Mode, b: Mode): number => STRICT.indexOf(a) - STRICT.indexOf(b);

/** The strictest mode among claims, and the list that brings it; a claim without a mode enforces. */
function strictestClaim(claims: readonly Claim[]): { mode: Mode; list: string } | undefined {
  const modes = claims
    .map((claim) => ({ mode: claim.list.mode ?? 'enforce', list: claim.list.name, adds: addsEntries(claim) }))
    .filter(({ mode, adds }) => adds || mode === 'enforce');
  return modes.sort((a, b) => byStrictness(a.mode, b.mode))[0];
}
