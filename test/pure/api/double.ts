import { grantBody } from '../../../src/api/container-body.js';
import type { Context } from '../../../src/api/context.js';
import type { ContainerBody, Status } from '../../../src/api/schemas.js';
import type { KnownBody } from '../../../src/api/schemas-traffic.js';
import { nodeCensus, type Views } from '../../../src/api/views.js';
import type { AskDecided, AskDecision, Asks, AskView } from '../../../src/ask/asks.js';
import type { Audit, AuditView } from '../../../src/changes/audit.js';
import type { Changes } from '../../../src/changes/changes.js';
import type { ContainerChanges, EmergencyChanges } from '../../../src/changes/container-changes.js';
import type { Fleet, NodeView } from '../../../src/changes/fleet.js';
import type { ListChanges, ListView } from '../../../src/changes/list-changes.js';
import type { ModeChanges, ModeRequest } from '../../../src/changes/mode-changes.js';
import type { StoreTrust } from '../../../src/changes/store-trust.js';
import type { TokenChanges } from '../../../src/changes/token-changes.js';
import type { PlannedChange, TransferChanges } from '../../../src/changes/transfer-changes.js';
import type { UnwrittenChange, UnwrittenChanges } from '../../../src/changes/unwritten-changes.js';
import type { ScanView } from '../../../src/coverage/scan.js';
import type { Reconciler } from '../../../src/enforce/reconciler.js';
import { EventLog } from '../../../src/events/event-log.js';
import type {
  ContainerRun,
  FlowQuery,
  FlowRecord,
  OwnerRecord,
  SeenDestination,
} from '../../../src/flows/flow-record.js';
import type { FlowStore } from '../../../src/flows/flow-store.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { OutputStatus } from '../../../src/notify/delivery.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import type { Grant, List, Lockdown, Pause } from '../../../src/policy/policy.js';
import type { Role, Token } from '../../../src/policy/token.js';
import type { Store } from '../../../src/store/store-interface.js';
import type { Place } from '../../../src/suggest/needs.js';
import type { PreviewRequest, PreviewView } from '../../../src/suggest/preview.js';
import type { SuggestionRequest } from '../../../src/suggest/suggest.js';
import { type Suggestion, suggest } from '../../../src/suggest/suggest.js';
import type { Feeds } from '../../../src/threats/feed-service.js';
import type { FeedSync, FeedView, SyncHow, ThreatView } from '../../../src/threats/feed-view.js';

/** The public members of a class: a double of it needs no private ones. */
type Public<T> = { [K in keyof T]: T[K] };

/** A service in memory, for the API and the commands. `calls` has every change that was made through `context`. */
export class MemoryService {
  readonly calls: unknown[][] = [];
  readonly store = new Map<string, ListView>();
  readonly denied: FlowRecord[] = [];
  readonly runs = new Map<string, ContainerRun>();
  recordedUntil = Date.parse('2999-01-01T00:00:00Z');
  readonly marked: KnownBody[] = [];
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
  mode: ContainerBody['mode'] = 'observe';
  trialUntil: string | null = null;
  against: ContainerBody['against'] = null;
  wouldDeny: PreviewView['destinations'] = [];
  /** By owner. */
  /** What is done when a view waits for the connections until now. */
  onSettled = (): void => undefined;
  readonly records = new Map<string, OwnerRecord>();
  readonly events = new EventLog();
  outputs: OutputStatus[] = [];
  alerts: string[] = [];
  warnings: string[] = [];
  accepted: string[] = [];
  readonly feedsKnown = [feed()];
  asked: AskView[] = [];
  kept: Status['kept'] = { modes: 0, grants: 0, owners: [] };
  threatKnown: ThreatView['hits'] = [];

  constructor() {
    this.#put('npm', { allow: ['registry.npmjs.org', '*.npmjs.org'] }, 'folder');
  }
  status(): Status {
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
      trials: 0,
      trialUntil: null,
      evaluated: 0,
      lockdown: this.lockdownNow ?? null,
      threats: { entries: 0, feeds: 0, alerts: this.alerts },
      kernel: { inSync: true, ...this.ready(), lastRepair: null },
      canary: { ok: true, at: '2026-07-01T07:02:00.000Z', detail: 'permitted reached, forbidden not' },
      connections: null,
      store: { kind: 'embedded', ok: true, detail: 'fine', unwritten: this.unwrittenNow },
      fleet: { nodes: this.nodesSeen.length, stale: [] },
      kept: this.kept,
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
  async preview(idOrName: string, { mode: to, against }: PreviewRequest): Promise<PreviewView> {
    const { name, mode } = this.container(idOrName);
    const recordingSince = mode === 'observe' ? '2026-07-01T07:02:00.000Z' : null;
    return {
      container: name,
      containers: [name],
      owner: `name:${name}`,
      mode,
      to: to === 'auto' ? 'observe' : to,
      against: against ?? null,
      recordingSince,
      gaps: [],
      dropped: 0,
      notRecorded: [],
      destinations: to === 'enforce' || against !== undefined ? this.wouldDeny : [],
      flows: [],
    };
  }
  container(idOrName: string): ContainerBody {
    if (idOrName !== 'web' && idOrName !== 'abc123') {
      throw new RefusedError({
        kind: 'not-found',
        detail: `there is no container ${idOrName}`,
        remedy: 'see drawbridge ps',
      });
    }
    const entry = {
      entry: 'api.github.com',
      from: 'its label drawbridge.allow',
      source: { kind: 'label' as const, name: null },
      addresses: ['140.82.112.3'],
      count: 4,
      packets: 4,
      bytes: 240,
    };
    const listed = {
      ...entry,
      entry: 'registry.npmjs.org',
      from: 'list npm',
      source: { kind: 'list' as const, name: 'npm' },
    };
    return {
      id: 'abc123',
      name: 'web',
      image: 'busybox',
      mode: this.mode,
      modeFrom: 'default',
      modeSource: { kind: 'default', name: null },
      coverage: { state: 'enforced', reasons: [] },
      findings: [],
      compose: null,
      addresses: ['172.17.0.2'],
      lists: ['npm'],
      entries: [entry, listed],
      grants: this.grants.map(grantBody),
      pausedUntil: null,
      trialUntil: this.trialUntil,
      against: this.against,
      limits: null,
      quota: null,
      allowed: 4,
      denied: 2,
      wouldDeny: 0,
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
  async setModes(
    containers: readonly string[],
    { mode, trialMs, against }: ModeRequest,
    who: string,
  ): Promise<void> {
    this.#call('setModes', containers, { mode, trialMs, against }, who);
    for (const one of containers) this.container(one);
    this.mode = mode === 'auto' ? 'observe' : mode;
    this.trialUntil = trialMs === undefined ? null : '2030-01-01T00:15:00.000Z';
    this.against = against === undefined ? null : { list: against, since: '2030-01-01T00:00:00.000Z' };
  }
  async confirm(containers: readonly string[], who: string): Promise<void> {
    this.#call('confirm', containers, who);
    this.trialUntil = null;
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
  async syncFeed(name: string, how: SyncHow): Promise<FeedSync> {
    this.#call('syncFeed', name, how);
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
  async decideAsk(id: string, decision: AskDecision, who: string): Promise<AskDecided> {
    this.#call('decideAsk', id, decision, who);
    const ask = this.asked.find((one) => one.id === id);
    if (ask?.token !== decision.token)
      throw new RefusedError({
        kind: 'conflict',
        detail: 'no longer what was shown',
        remedy: 'read it again',
      });
    this.asked = this.asked.filter((one) => one !== ask);
    const { container, entry } = ask;
    const isGrant = decision.allow && decision.list === undefined;
    return {
      ...{ id, container, entry, decision: decision.allow ? 'allow' : 'deny' },
      ...{ grant: isGrant ? 'g1' : null, expires: isGrant ? '2030-01-01T00:10:00.000Z' : null },
      list: decision.list ?? null,
    };
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
  /** By names alone; the container has no policy. */
  async suggestion({ container, record, options, now }: SuggestionRequest): Promise<Suggestion> {
    const name = typeof container === 'string' ? container : container.name;
    const place = (to: SeenDestination): Place => ({
      entry: to.name,
      kind: 'name',
      name: to.name,
      free: false,
      warning: null,
    });
    return suggest({
      container: name,
      record,
      places: record.seen.map(place),
      policy: { entries: [], denied: [], lists: [] },
      mode: 'observe',
      lists: this.store,
      notRecorded: [],
      now,
      options,
    });
  }
  async plan(): Promise<readonly string[]> {
    return this.planned;
  }
  flowPage({ container, owners, verdicts, since = 0, limit }: FlowQuery) {
    const items = this.denied.filter(
      (f) =>
        (container === undefined || f.container === container) &&
        (owners === undefined || owners.includes(f.owner)) &&
        (verdicts === undefined || verdicts.includes(f.verdict)) &&
        Date.parse(f.last) >= since,
    );
    return {
      items: items.slice(0, limit),
      next: items.length > limit ? { time: 1_764_547_200_000, id: 12 } : null,
    };
  }
  async teardown(): Promise<void> {
    this.tornDown++;
  }

  /** The parts that the routes use. They call the methods of this object, so that a test can replace one. */
  get context(): Context {
    const views = {
      followCounts: () => ({ [Symbol.dispose]: () => undefined }),
      settled: async () => this.onSettled(),
      refreshCounts: () => this.refreshCounts(),
      status: () => this.status(),
      ready: () => this.ready(),
      lockdown: () => this.lockdown(),
      containers: () => this.containers(),
      census: () => nodeCensus(this.containers()),
      container: (idOrName) => this.container(idOrName),
      scan: (idOrName) => this.scan(idOrName),
      explain: (idOrName, to) => this.explain(idOrName, to),
      preview: (idOrName, to) => this.preview(idOrName, to),
      suggestion: (request) => this.suggestion(request),
      plan: () => this.plan(),
    } satisfies Public<Views>;
    const parts: Partial<Record<keyof Context, unknown>> = {
      node: 'host1',
      views,
      changes: this.#changes,
      audit: this.#audit,
      docker: {
        view: () => ({ containers: new Map(this.containers().map((c) => [c.id, { ...c, labels: {} }])) }),
      },
      events: this.events,
      flows: {
        recordedUntil: this.recordedUntil,
        run: async (text) => this.runs.get(text),
        record: async (owner) => this.records.get(owner),
        owners: async () => [...this.records.keys()],
        page: async (query) => this.flowPage(query),
        facts: async () => ({
          since: Date.parse('2030-01-01T00:00:00Z'),
          gaps: [],
          dropped: 3,
          thinnedUntil: undefined,
          rows: 0,
          destinations: 0,
          bytes: 0,
        }),
        marks: async () => this.marked,
        mark: async (mark, isKnown) => {
          this.#call('markKnown', mark, isKnown);
          if (isKnown) this.marked.push(mark);
          else this.marked.length = 0;
          return 1;
        },
      } satisfies Partial<Public<FlowStore>>,
      metrics: {
        answered: () => undefined,
        text: async () => ({ type: 'text/plain', body: '' }),
      } satisfies Context['metrics'],
      notifier: {
        status: () => this.outputs,
        warnings: () => [],
        test: async (name) => ({
          name,
          ok: name === 'hook',
          detail: name === 'hook' ? 'delivered' : 'status 500',
        }),
      } satisfies Context['notifier'],
      records: { status: () => [], warnings: () => [] } satisfies Context['records'],
      feeds: {
        views: () => this.feedsKnown,
        sync: (name, how) => this.syncFeed(name, how),
        check: (query) => this.threat(query),
      } satisfies Partial<Public<Feeds>>,
      asks: {
        list: () => this.asked,
        decide: (id, decision, who) => this.decideAsk(id, decision, who),
      } satisfies Partial<Public<Asks>>,
      fleet: {
        refresh: async () => this.nodesSeen,
        forget: async () => null,
      } satisfies Partial<Public<Fleet>>,
      store: { identity: () => 'of-the-tests', revision: () => this.revision } satisfies Partial<Store>,
      trust: {
        doubt: undefined,
        known: undefined,
        checkAcceptable: () => undefined,
        accept: async () => undefined,
      } satisfies Partial<Public<StoreTrust>>,
      reconciler: { inForce: async () => undefined } satisfies Partial<Public<Reconciler>>,
      teardown: () => this.teardown(),
    };
    return parts as unknown as Context;
  }

  get #changes(): Partial<Record<keyof Changes, unknown>> {
    return {
      lists: {
        all: () => this.lists(),
        get: (name) => this.list(name),
        put: (name, body, ifMatch, who) => this.putList(name, body, ifMatch, who),
        delete: (name, ifMatch, who) => this.deleteList(name, ifMatch, who),
        addEntry: (name, entry, ifMatch, who) => this.addEntry(name, entry, ifMatch, who),
        removeEntry: (name, entry, ifMatch, who) => this.removeEntry(name, entry, ifMatch, who),
      } satisfies Public<ListChanges>,
      containers: {
        grant: (idOrName, entry, forMs, who) => this.grant(idOrName, entry, forMs, who),
        revokeGrant: (idOrName, id, who) => this.revokeGrant(idOrName, id, who),
      } satisfies Partial<Public<ContainerChanges>>,
      modes: {
        set: (containers, request, who) => this.setModes(containers, request, who),
        confirm: (containers, who) => this.confirm(containers, who),
        forget: async (owner, who) => this.#call('forget', owner, who),
        modeSet: (idOrName) => ({
          owner: `name:${this.container(idOrName).name}`,
          mode: undefined,
          revision: 0,
        }),
      } satisfies Partial<Public<ModeChanges>>,
      emergency: {
        pause: (idOrName, forMs, who) => this.pause(idOrName, forMs, who),
        endPause: (idOrName, who) => this.endPause(idOrName, who),
        setLockdown: (on, who) => this.setLockdown(on, who),
      } satisfies Partial<Public<EmergencyChanges>>,
      tokens: {
        list: () => this.tokens(),
        create: (name, role, forMs, who) => this.createToken(name, role, forMs, who),
        revoke: (name, who) => this.revokeToken(name, who),
      } satisfies Partial<Public<TokenChanges>>,
      transfer: {
        export: () => this.exportAll(),
        import: (document, how, who) => this.importAll(document, how, who),
        sync: (owner, bodies, how, who) => this.syncLists(owner, bodies, how, who),
      } satisfies Public<TransferChanges>,
      unwritten: { list: () => this.unwritten() } satisfies Partial<Public<UnwrittenChanges>>,
    };
  }

  /** The author of some changes is only in their records. */
  get #audit() {
    return {
      page: (limit, cursor) => this.audit(limit, cursor),
      record: async ({ action, target, who }) => {
        if (action === 'store.accept') this.accepted.push(who);
        else if (action === 'node.forget') this.calls.push(['forgetNode', target, who]);
        else this.calls.at(-1)?.push(who);
      },
      recordOrWait: async ({ action, who }) => {
        this.#call(action, who);
        return true;
      },
    } satisfies Partial<Public<Audit>>;
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

export const ask = (more: Partial<AskView> = {}): AskView => ({
  ...{ id: '3f9c21ab', container: 'web', containerId: 'abc123', name: null },
  ...{ address: '192.0.2.1', addresses: ['192.0.2.1'], port: 22, proto: 'tcp', entry: '192.0.2.1:22' },
  since: '2030-01-01T00:00:00.000Z',
  last: '2030-01-01T00:00:00.000Z',
  until: '2030-01-01T00:00:10.000Z',
  waiting: 1,
  attempts: 1,
  token: 'shown',
  ...more,
});

export const denial = (more: Partial<FlowRecord> = {}): FlowRecord => ({
  time: '2030-01-01T00:00:00.000Z',
  last: more.time ?? '2030-01-01T00:00:00.000Z',
  container: 'web',
  owner: 'name:web',
  verdict: 'deny',
  proto: 'tcp',
  address: '192.0.2.1',
  port: 443,
  name: null,
  reason: 'no entry covers it',
  entry: null,
  list: null,
  feed: null,
  packets: 1,
  bytes: 0,
  count: 1,
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
