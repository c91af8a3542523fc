import type { ContainerView } from '../../../src/api/container-views.js';
import type { Controller } from '../../../src/api/context.js';
import type { AuditView } from '../../../src/changes/audit-types.js';
import type { NodeView } from '../../../src/changes/fleet-types.js';
import type { ListView } from '../../../src/changes/list-changes.js';
import type { PlannedChange } from '../../../src/changes/transfer-changes.js';
import type { UnwrittenChange } from '../../../src/changes/unwritten-changes.js';
import type { ScanView } from '../../../src/coverage/scan.js';
import type { DenialEvent } from '../../../src/enforce/denials.js';
import type { PreviewView } from '../../../src/enforce/preview-types.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { Lockdown, Pause } from '../../../src/policy/emergency.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import type { Grant, List } from '../../../src/policy/policy.js';
import type { Role, Token } from '../../../src/policy/token.js';
import type { FeedSync, FeedView, SyncHow, ThreatView } from '../../../src/threats/feed-view.js';

/** A controller in memory, for the API and the commands: what it was asked stands in `calls`. */
export class MemoryController implements Controller {
  readonly calls: unknown[][] = [];
  readonly store = new Map<string, ListView>();
  readonly listeners = new Set<(e: DenialEvent) => void>();
  readonly denied: DenialEvent[] = [];
  planned: string[] = [];
  isReady = true;
  verdict: 'allow' | 'deny' = 'deny';
  failure: Error | undefined;
  tornDown = 0;
  revision = 0;
  grants: Grant[] = [];
  tokensMade: Token[] = [];
  planOfMany: PlannedChange[] = [];
  nodesSeen: NodeView[] = [];
  lockdownNow: Lockdown | undefined;
  unwrittenNow: UnwrittenChange[] = [];
  audited: AuditView[] = [];
  scanned: ScanView[] = [];
  mode: ContainerView['mode'] = 'observe';
  wouldDeny: PreviewView['destinations'] = [];
  alerts: string[] = [];
  warnings: string[] = [];
  accepted: string[] = [];
  readonly feedsKnown = [feed()];
  threatKnown: ThreatView['hits'] = [];

  constructor() {
    this.#put('npm', { allow: ['registry.npmjs.org', '*.npmjs.org'] }, 'folder');
  }
  status() {
    return {
      version: '0.1.0',
      node: 'host1',
      enforced: 3,
      observed: 37,
      off: 0,
      containers: 40,
      coverage: { enforced: 1, partial: 2, unenforced: 0 },
      labelErrors: 0,
      missingLists: 0,
      paused: 0,
      lockdown: this.lockdownNow ?? null,
      threats: { entries: 0, feeds: 0, alerts: this.alerts },
      kernel: { inSync: true, ...this.ready(), lastRepair: null },
      store: { kind: 'embedded', ok: true, detail: 'fine', unwritten: this.unwrittenNow },
      fleet: { nodes: this.nodesSeen.length, stale: [] },
      warnings: this.warnings,
    };
  }
  ready() {
    return { ready: this.isReady, reason: this.isReady ? 'in sync' : 'the first pass is not done' };
  }
  async refreshCounts() {
    return Date.now();
  }
  containers() {
    return [this.container('web')];
  }
  async preview(idOrName: string, to: ContainerView['mode'] | 'auto'): Promise<PreviewView> {
    const { name, mode } = this.container(idOrName);
    const recordingSince = mode === 'observe' ? '2026-07-01T07:02:00.000Z' : null;
    return {
      container: name,
      owner: `name:${name}`,
      mode,
      to: to === 'auto' ? 'observe' : to,
      recordingSince,
      gaps: [],
      dropped: 0,
      notRecorded: [],
      destinations: to === 'enforce' ? this.wouldDeny : [],
      flows: [],
    };
  }
  container(idOrName: string): ContainerView {
    if (idOrName !== 'web' && idOrName !== 'abc123') {
      throw new RefusedError({
        kind: 'not-found',
        detail: `there is no container ${idOrName}`,
        remedy: 'see drawbridge ps',
      });
    }
    const entry = {
      entry: 'api.github.com',
      from: 'label',
      addresses: ['140.82.112.3'],
      packets: 4,
      bytes: 240,
    };
    const listed = { ...entry, entry: 'registry.npmjs.org', from: 'list:npm' };
    return {
      id: 'abc123',
      name: 'web',
      image: 'busybox',
      mode: this.mode,
      modeFrom: 'default',
      coverage: { state: 'enforced', reasons: [] },
      findings: [],
      compose: null,
      addresses: ['172.17.0.2'],
      lists: ['npm'],
      entries: [entry, listed],
      grants: this.grants,
      pausedUntil: null,
      limits: null,
      quota: null,
      allowed: 4,
      denied: 2,
    };
  }
  async grant(idOrName: string, entry: string, forMs: number | undefined, who: string): Promise<Grant> {
    this.#call('grant', idOrName, entry, forMs, who);
    this.container(idOrName);
    const expires = forMs === undefined ? {} : { expires: '2030-01-01T00:10:00.000Z' };
    const grant = {
      id: `g${this.grants.length + 1}`,
      entry,
      owner: 'name:web',
      created: '2030-01-01T00:00:00.000Z',
      ...expires,
    };
    this.grants.push(grant);
    return grant;
  }
  async revokeGrant(idOrName: string, grantId: string, who: string): Promise<void> {
    this.#call('revokeGrant', idOrName, grantId, who);
    this.grants = this.grants.filter((g) => g.id !== grantId);
  }
  async setMode(idOrName: string, mode: ContainerView['mode'] | 'auto', who: string): Promise<ContainerView> {
    this.#call('setMode', idOrName, mode, who);
    this.mode = mode === 'auto' ? 'observe' : mode;
    return this.container(idOrName);
  }
  async pause(idOrName: string | undefined, forMs: number, who: string): Promise<Pause> {
    this.#call('pause', idOrName, forMs, who);
    const owner = idOrName === undefined ? 'all' : `id:${this.container(idOrName).id}`;
    return { owner, created: '2030-01-01T00:00:00.000Z', expires: '2030-01-01T00:10:00.000Z', by: who };
  }
  async endPause(idOrName: string | undefined, who: string): Promise<void> {
    this.#call('endPause', idOrName, who);
  }
  unwritten(): readonly UnwrittenChange[] {
    return this.unwrittenNow;
  }
  lockdown(): Lockdown | undefined {
    return this.lockdownNow;
  }
  async setLockdown(on: boolean, who: string): Promise<Lockdown | undefined> {
    this.#call('setLockdown', on, who);
    this.lockdownNow = on ? { since: '2030-01-01T00:00:00.000Z', by: who } : undefined;
    return this.lockdownNow;
  }
  async audit(limit: number, cursor: string | undefined) {
    this.#call('audit', limit, cursor);
    return { items: this.audited.slice(0, limit), next: this.audited.length > limit ? 'more' : undefined };
  }
  scan(idOrName: string | undefined): readonly ScanView[] {
    this.#call('scan', idOrName);
    return this.scanned;
  }
  exportAll() {
    return { lists: { ci: { allow: ['a.org'] } }, modes: {}, grants: [], tokens: [] };
  }
  async importAll(document: unknown, how: object, who: string) {
    this.calls.push(['importAll', document, how, who]);
    return this.planOfMany;
  }
  async syncLists(owner: string, bodies: object, how: object, who: string) {
    this.calls.push(['syncLists', owner, bodies, how, who]);
    return this.planOfMany;
  }
  feeds(): readonly FeedView[] {
    return this.feedsKnown;
  }
  async syncFeed(name: string, how: SyncHow, who: string): Promise<FeedSync> {
    this.#call('syncFeed', name, how, who);
    const found = this.feedsKnown.find((one) => one.name === name);
    if (found) return { outcome: 'attempted', feed: found };
    throw new RefusedError({
      kind: 'not-found',
      detail: `there is no feed ${name}`,
      remedy: 'feeds are: bad',
    });
  }
  threat(query: string): ThreatView {
    const verdict = this.threatKnown[0]?.spared === null ? 'block' : 'none';
    return { query, target: query, verdict, hits: this.threatKnown };
  }
  async nodes() {
    return this.nodesSeen;
  }
  async forgetNode(name: string, who: string): Promise<void> {
    this.calls.push(['forgetNode', name, who]);
  }
  tokens() {
    return this.tokensMade;
  }
  async createToken(name: string, role: Role, forMs: number | undefined, who: string) {
    this.calls.push(['createToken', name, role, forMs, who]);
    const token: Token = { name, role, hash: '0'.repeat(64), created: '2030-01-01T00:00:00Z', by: who };
    this.tokensMade.push(token);
    return { token, secret: 'drawbridge_secret' };
  }
  async revokeToken(name: string, who: string): Promise<void> {
    this.calls.push(['revokeToken', name, who]);
  }
  lists(): readonly ListView[] {
    return [...this.store.values()];
  }
  list(name: string): ListView {
    const list = this.store.get(name);
    if (list) return list;
    throw new RefusedError({
      kind: 'not-found',
      detail: `there is no list ${name}`,
      remedy: 'lists are: npm',
    });
  }
  async putList(name: string, body: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    this.#call('putList', name, body, ifMatch, who);
    this.#guard(name, ifMatch);
    return this.#put(name, body, 'store');
  }
  async deleteList(name: string, ifMatch: number | undefined, who: string): Promise<void> {
    this.#call('deleteList', name, ifMatch, who);
    this.#guard(name, ifMatch);
    this.store.delete(name);
  }
  async addEntry(list: string, entry: unknown, ifMatch: number | undefined, who: string): Promise<ListView> {
    this.#call('addEntry', list, entry, ifMatch, who);
    this.#guard(list, ifMatch);
    return this.#put(list, { allow: [...this.list(list).allow.map((e) => e.canonical), entry] }, 'store');
  }
  async removeEntry(
    list: string,
    canonical: string,
    ifMatch: number | undefined,
    who: string,
  ): Promise<ListView> {
    this.#call('removeEntry', list, canonical, ifMatch, who);
    return this.#put(
      list,
      {
        allow: this.list(list)
          .allow.map((e) => e.canonical)
          .filter((c) => c !== canonical),
      },
      'store',
    );
  }
  explain(idOrName: string, to: string) {
    const container = this.container(idOrName).name;
    const denied = this.verdict === 'deny';
    return {
      container,
      to,
      verdict: this.verdict,
      reason: denied ? 'no entry covers it' : 'an entry covers it, by address only',
      entry: denied ? null : to,
      list: null,
      feed: null,
      remedy: denied ? `drawbridge allow ${container} ${to} --for 1h` : null,
      lasting: denied ? `label drawbridge.allow: ${to}` : null,
      warning: null,
      coverage: null,
      trace: ['filter DB-FORWARD: -m mark …'],
    };
  }
  async plan(): Promise<readonly string[]> {
    return this.planned;
  }
  denials(
    idOrName: string | undefined,
    limit: number,
    isWanted: (e: DenialEvent) => boolean = () => true,
  ): readonly DenialEvent[] {
    if (idOrName !== undefined) this.container(idOrName);
    return this.denied.filter(isWanted).slice(0, limit);
  }
  async acceptStore(who: string) {
    this.accepted.push(who);
    return this.status();
  }
  async teardown(who: string): Promise<void> {
    this.#call('teardown', who);
    this.tornDown++;
  }
  onEvent(listener: (e: DenialEvent) => void): Disposable {
    this.listeners.add(listener);
    return { [Symbol.dispose]: () => void this.listeners.delete(listener) };
  }

  #call(...call: unknown[]): void {
    this.calls.push(call);
    if (this.failure) throw this.failure;
  }
  #guard(name: string, ifMatch: number | undefined): void {
    const list = this.store.get(name);
    if (list?.source === 'folder') {
      throw new RefusedError({
        kind: 'read-only',
        detail: `the list ${name} is a file`,
        remedy: 'edit /etc/drawbridge/allowlists/npm.yaml',
      });
    }
    if (ifMatch !== undefined && ifMatch !== (list?.revision ?? 0)) {
      throw new RefusedError({ kind: 'precondition', detail: 'changed meanwhile', remedy: 'read it again' });
    }
  }
  #put(name: string, body: unknown, source: List['source']): ListView {
    const parsed = listFromObject(name, source, body);
    if (!parsed.ok) throw new RefusedError({ kind: 'invalid', problems: parsed.problems });
    const file = source === 'folder' ? { file: '/etc/drawbridge/allowlists/npm.yaml' } : {};
    const list = {
      ...parsed.value,
      ...file,
      revision: source === 'store' ? ++this.revision : 0,
      usedBy: ['web'],
    };
    this.store.set(name, list);
    return list;
  }
}

export const denial = (more: Partial<DenialEvent> = {}): DenialEvent => ({
  time: '2030-01-01T00:00:00.000Z',
  container: 'web',
  verdict: 'deny',
  proto: 'tcp',
  address: '192.0.2.1',
  port: 443,
  name: null,
  reason: 'no entry covers it',
  ...more,
});

const NO_LINES = { count: 0, samples: [] };
export const feed = (more: Partial<FeedView> = {}): FeedView => ({
  name: 'bad',
  url: 'https://feeds.example/bad.txt',
  format: 'auto',
  action: 'block',
  direction: 'both',
  everySeconds: 3600,
  status: 'current',
  reason: null,
  remedy: null,
  entries: 20,
  names: 5,
  loaded: '2030-01-01T00:00:00.000Z',
  confirmed: '2030-01-01T00:00:00.000Z',
  attempted: '2030-01-01T00:00:00.000Z',
  next: null,
  failures: 0,
  lines: { bad: NO_LINES, unsupported: NO_LINES, skipped: NO_LINES, suffixes: NO_LINES },
  spared: [],
  known: [],
  ...more,
});
