/** The DNS room with a policy that the test holds in its hands. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DnsConfig, DnsService } from '../../../src/dns/dns-service.js';
import type { NameDecision, NameEvent, QueryPolicy } from '../../../src/dns/names-policy.js';
import type { AnswerSets } from '../../../src/kernel/netlink/answer-sets.js';
import type { OriginalDestination } from '../../../src/kernel/netlink/conntrack.js';
import type { Range } from '../../../src/lib/ip.js';
import type { Mode } from '../../../src/policy/policy.js';
import type { CurrentThreats } from '../../../src/policy/threat.js';

/** Exactly these, and names below them. */
function lookOf(listed: ReadonlyMap<string, 'block' | 'observe'>): CurrentThreats {
  const find = (action: 'block' | 'observe') => (text: string) => {
    const found = [...listed].find(([l, a]) => a === action && (l === text || text.endsWith(`.${l}`)));
    if (!found) return undefined;
    return { feed: 'bad', listed: found[0], line: 7, positions: 'line', since: 0, spared: null } as const;
  };
  const [blocked, observed] = [find('block'), find('observe')];
  return {
    version: undefined, // the revision of the policy has the list
    blockedName: blocked,
    blockedAddress: blocked,
    observedName: observed,
    observedAddress: observed,
    blockedSource: blocked,
    observedSource: observed,
  };
}

export const quiet = { debug() {}, info() {}, warn() {}, error() {} };

/** Containers are named after their source address: 127.9.0.1 is "127.9.0.1". */
class TestPolicy implements QueryPolicy {
  readonly modes = new Map<string, Mode>();
  readonly allowed = new Map<string, Partial<NameDecision>>();
  readonly covered = new Set<string>();
  readonly direct = new Set<string>();
  readonly unknown = new Set<string>();
  /** Containers with networks that are not known yet. Names of neighbours do not resolve for them. */
  readonly joining = new Set<string>();
  /** The host's own address: an answer that names it is refused. */
  readonly host = new Set(['203.0.113.77']);
  /** Public address space of Docker networks. */
  networks: readonly Range[] = [];
  search: readonly string[] = [];
  /** Names and addresses that a feed lists, with its action. */
  readonly listed = new Map<string, 'block' | 'observe'>();
  readonly threats = lookOf(this.listed);
  readonly nat64 = undefined;

  /** All that a test can change, as a text: it differs as soon as anything does. */
  get revision(): string {
    const { modes, allowed, covered, direct, unknown, joining, host, networks, search, listed } = this;
    const all = [modes, allowed, covered, direct, unknown, joining, host, listed].map((part) => [...part]);
    return JSON.stringify([all, networks.map((r) => `${r.lo}-${r.hi}`), search]);
  }
  /** Containers by address, where they are not named after it. Not part of the revision. */
  readonly holders = new Map<string, string>();
  /** Containers that may resolve nothing. Not part of the revision. */
  readonly denied = new Set<string>();

  containerAt(address: string): string | undefined {
    return this.unknown.has(address) ? undefined : (this.holders.get(address) ?? address);
  }
  async awaitClient(address: string, _at: number, ms: number): Promise<string | undefined> {
    const end = performance.now() + ms;
    while (this.unknown.has(address) && performance.now() < end) await new Promise((r) => setTimeout(r, 20));
    return this.containerAt(address);
  }
  async awaitContainer(): Promise<boolean> {
    return true;
  }
  async awaitNetworks(container: string, ms: number): Promise<boolean> {
    const end = performance.now() + ms;
    while (this.joining.has(container) && performance.now() < end)
      await new Promise((r) => setTimeout(r, 20));
    return !this.joining.has(container);
  }
  mode(container: string): Mode {
    return this.modes.get(container) ?? 'enforce';
  }
  deniedName(): undefined {
    return undefined;
  }

  decide(container: string, name: string): NameDecision {
    const hit = this.denied.has(container) ? undefined : this.allowed.get(name);
    const sets = [{ v4: `${container}-v4`, v6: `${container}-v6` }];
    return {
      allow: hit !== undefined,
      entries: [],
      sets: hit === undefined ? [] : sets,
      allowPrivate: false,
      ...hit,
    };
  }
  coversAddress(_: string, address: string): boolean {
    return this.covered.has(address);
  }
  directResolvers(): ((at: { readonly address: string }) => boolean) | undefined {
    return this.direct.size === 0 ? undefined : (at) => this.direct.has(at.address);
  }
  localName(container: string, name: string): readonly string[] | undefined {
    return name === 'db' && !this.joining.has(container) ? ['10.1.0.5'] : undefined;
  }
  localAddress(_: string, address: string): string | undefined {
    return address === '10.1.0.5' ? 'db' : undefined;
  }
  hostAddresses(): ReadonlySet<string> {
    return this.host;
  }
  inside(): readonly Range[] {
    return this.networks;
  }
  searchDomains(): readonly string[] {
    return this.search;
  }
}

/** Stands for the kernel's sets: what was acknowledged, and how long an acknowledgement takes or whether it fails. */
class TestSets implements AnswerSets {
  readonly members = new Map<string, number>();
  delayMs = 0;
  failure: string | undefined;

  async add(set: string, address: string, timeoutSeconds: number): Promise<void> {
    if (this.delayMs > 0) await new Promise((r) => setTimeout(r, this.delayMs));
    if (this.failure !== undefined) throw new Error(this.failure);
    this.members.set(`${set} ${address}`, timeoutSeconds);
  }
  async addAll(set: string, members: Parameters<AnswerSets['addAll']>[1]): Promise<void> {
    for (const [address, timeoutSeconds] of members) await this.add(set, address, timeoutSeconds);
  }
  repeated(set: string, until: ReadonlyMap<string, number>): ReturnType<AnswerSets['repeated']> {
    const all = [...until.keys()].map((address) => `${set} ${address}`);
    return { ensure: () => this.failure === undefined && all.every((member) => this.members.has(member)) };
  }
  async remove(set: string, address: string): Promise<void> {
    this.members.delete(`${set} ${address}`);
  }
}

export class House {
  readonly policy = new TestPolicy();
  readonly sets = new TestSets();
  readonly events: NameEvent[] = [];
  readonly dir = mkdtempSync(join(tmpdir(), 'drawbridge-dns-'));
  original: ReturnType<OriginalDestination['lookup']>;
  readonly config: DnsConfig;
  now = () => Date.now();
  wallClock = () => Date.now();
  service: DnsService;

  constructor(config: Partial<DnsConfig>) {
    this.config = { upstreams: [], zones: {}, minTtl: 5, maxTtl: 86_400, grace: 3600, ...config };
    this.service = this.make();
  }

  make(): DnsService {
    return new DnsService({
      config: this.config,
      policy: this.policy,
      sets: this.sets,
      original: { lookup: () => this.original },
      log: quiet,
      journal: join(this.dir, 'dns.jsonl'),
      now: () => this.now(),
      wallClock: () => this.wallClock(),
      onEvent: (e) => void this.events.push(e),
    });
  }

  close(): void {
    this.service[Symbol.dispose]();
    rmSync(this.dir, { recursive: true });
  }
}
