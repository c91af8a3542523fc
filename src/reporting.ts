/** The parts of the service that report what happens. They read the other parts and subscribe to them; no other part needs them. */

import { Metrics } from './api/metrics.js';
import type { App } from './app.js';
import { type FolderState, listNameOf } from './config/list-files.js';
import { CoverageChanges, type CoverageParts, containerState, hasFallen } from './coverage/coverage.js';
import { HostWatch } from './coverage/host-watch.js';
import { EventLog } from './events/event-log.js';
import { type DeniedFlowParts, deniedFlow } from './flows/denied-flow.js';
import type { SeenFlow } from './flows/flow-record.js';
import { FlowStore } from './flows/flow-store.js';
import { PassedFlows } from './flows/passed-flows.js';
import { exec } from './kernel/exec.js';
import type { Logger } from './lib/log.js';
import { clipped, detailOf, type Problem } from './lib/problem.js';
import { Notifier } from './notify/notifier.js';
import { Records } from './notify/records.js';
import { Canary } from './ops/canary.js';
import { type DockerView, isUp } from './policy/container.js';
import type { Engine } from './policy/engine.js';
import { findingText } from './policy/finding.js';
import { ownerKey } from './policy/own-labels.js';

/** The event of a start may arrive later than the first packet of the container. */
const START_MS = 10_000;

export type Reporting = ReturnType<typeof buildReporting>;

/** Builds them, before the start. */
export function buildReporting(app: App) {
  const { config, node, log, parts, tallies, small } = app;
  const events = new EventLog();
  const flows = parts.use(
    new FlowStore({ ...config.flows, folder: config.state, log, tallies, now: Date.now }),
  );
  flows.firstContact.subscribe((contact) => events.emit('first-contact', contact));
  followStarts(app.docker, flows);
  const record = (flow: SeenFlow): void => {
    flows.add(flow);
    tallies.add(flow);
  };
  reportDenials(app, events, record);
  app.denials.notLogged.subscribe((count) => flows.lose(count));
  reportContainers(app, events);
  app.asks.events.subscribe((ask) => events.emit('ask', ask));
  reportRepairs(app, events);
  reportLists(app, events);
  reportFeeds(app, events);
  const hostWatch = new HostWatch(app);
  app.maintenance.rulesChanged.subscribe(() => hostWatch.changed());
  reportCoverage({ ...app, hostWatch }, events);
  const { prefix } = app.shape;
  const canary = parts.use(new Canary({ ...app, prefix, everyMs: config.canary.everyMs, run: exec }));
  canary.changed.subscribe(({ ok, detail }) => {
    if (ok !== null) events.emit('canary', { ok, detail });
  });
  const passed = parts.use(new PassedFlows({ ...app, folder: config.state }));
  reportPassed(passed, { events, flows, record });
  const faults = new ReportingFaults(config.faults, log);
  faults.add(() => (passed.warning === undefined ? [] : [passed.warning]));
  const records = parts.use(
    faults.orWithout('what records events (flows.file, flows.syslog, OTEL_…)', (isWithout) => {
      const flows = isWithout ? { ...config.flows, file: '', syslog: '' } : config.flows;
      return new Records({ config: { flows }, node, events, log, env: isWithout ? {} : process.env });
    }),
  );
  const notifier = parts.use(
    faults.orWithout('notify', (isWithout) => {
      const keepQueues = isWithout || config.faults.length > 0;
      return new Notifier({
        receivers: isWithout ? [] : config.notify,
        keepQueues,
        node,
        events,
        log,
        small,
      });
    }),
  );
  const { asks } = app;
  const asksPending = (): number => asks.pending;
  const metrics = new Metrics({ ...app, events, flows, asksPending, prefix });
  return { events, flows, hostWatch, canary, metrics, passed, records, notifier, asks, faults };
}

/** What does not report as it is configured. Enforcement goes on without it. */
class ReportingFaults {
  readonly #log: Logger;
  readonly #of: (() => readonly string[])[] = [];

  constructor(faults: readonly Problem[], log: Logger) {
    this.#log = log;
    const texts = faults.map(({ detail, remedy }) => `the configuration: ${detail}: ${remedy}`);
    for (const { detail, ...fault } of faults)
      log.error(fault, `the configuration has an error, and enforcement does not depend on it: ${detail}`);
    this.add(() => texts);
  }

  add(texts: () => readonly string[]): void {
    this.#of.push(texts);
  }

  /** Makes a part, or one without what it should do. */
  orWithout<T>(what: string, make: (isWithout: boolean) => T): T {
    try {
      return make(false);
    } catch (e) {
      this.#log.error({ err: e }, `the service runs without: ${what}`);
      this.add(() => [`the service runs without ${what}: ${detailOf(e)}`]);
      return make(true);
    }
  }

  list(): readonly string[] {
    return this.#of.flatMap((texts) => texts());
  }
}

/** Begins what has work of its own: the service is ready, and waits for none of it. */
export function beginReporting({ flows, canary, passed }: Reporting): void {
  flows.begin();
  canary.begin();
  setTimeout(() => passed.begin(), PASSED_MS).unref();
}
/** What the service does at its start, and requests that waited for it, go before another thread. */
const PASSED_MS = 1_000;

/** The only place where connections and attempts are counted. */
type Recorder = (flow: SeenFlow) => void;

function reportPassed(
  passed: PassedFlows,
  { events, flows, record }: { events: EventLog; flows: FlowStore; record: Recorder },
): void {
  passed.recorded.subscribe((contacts) => {
    for (const contact of contacts) {
      const { id: _, time: __, last: ___, ...event } = contact;
      // What passes only because the container is observed was reported when its first packet was logged.
      if (contact.verdict === 'allow') events.emit('flow', event);
      record(contact);
    }
  });
  passed.missed.subscribe((count) => flows.lose(count));
  passed.interrupted.subscribe((gap) => flows.interrupted(gap));
  passed.recordedUntil.subscribe((time) => flows.completeUntil(time));
}

/** The owner of a container is recorded since its first start, or since the service has found it running. */
function followStarts(
  docker: Pick<Engine, 'view' | 'onChange'>,
  flows: Pick<FlowStore, 'begunAgain' | 'started'>,
): void {
  const seen = new Set<string>();
  const found = (view: DockerView, started?: string): void => {
    for (const facts of view.containers.values()) {
      const isStart = facts.id === started;
      if (facts.state !== 'running' || (seen.has(facts.id) && !isStart)) continue;
      seen.add(facts.id);
      const since = isStart ? Date.now() - START_MS : undefined;
      flows.started({ owner: ownerKey(facts), id: facts.id, name: facts.name, isStart, since });
    }
    for (const id of seen) if (!view.containers.has(id)) seen.delete(id);
  };
  flows.begunAgain.subscribe(() => {
    seen.clear();
    found(docker.view());
  });
  docker.onChange((view, change) => {
    const isStart =
      change.kind === 'event' && change.event.kind === 'container' && change.event.action === 'start';
    found(view, isStart ? change.event.id : undefined);
  });
}

function reportDenials(
  app: DeniedFlowParts & Pick<App, 'denials'>,
  events: EventLog,
  record: Recorder,
): void {
  app.denials.onEvent((denial) => {
    const flow = deniedFlow(app, denial);
    const { id: _, time: __, last: ___, count: ____, ...event } = flow;
    events.emit('flow', event);
    record(flow);
  });
}

function reportContainers({ docker }: Pick<App, 'docker'>, events: EventLog): void {
  docker.onChange((view, change) => {
    if (change.kind !== 'event' || change.event.kind !== 'container') return;
    const { id, action } = change.event;
    const { name = id.slice(0, 12), image = '' } = view.containers.get(id) ?? {};
    events.emit('container', { container: name, id, image, action });
  });
}

function reportRepairs({ pass, maintenance }: Pick<App, 'pass' | 'maintenance'>, events: EventLog): void {
  pass.installed.subscribe(({ repaired }) => {
    if (repaired) events.emit('repair', { detail: 'rules of Drawbridge were missing or changed' });
  });
  maintenance.recordLost.subscribe(() =>
    events.emit('repair', { detail: 'the record of the store in the kernel was removed' }),
  );
}

/** A problem of a list has many words: a list file may have hundreds of them. */
const LONGEST_DETAIL = 500;
const MOST_REASONS = 10;

/** Lists of the folder as they are read; those of the store when a pass has taken them. */
function reportLists(
  { lists, folderChanged, state, pass }: Pick<App, 'lists' | 'folderChanged' | 'state' | 'pass'>,
  events: EventLog,
): void {
  let folder: FolderState = lists.state;
  folderChanged.subscribe((now) => {
    reportFolder(folder, now, events);
    folder = now;
  });
  let version = state.version;
  let stored = revisionsOf(state);
  pass.installed.subscribe(() => {
    if (state.version === version) return;
    version = state.version;
    const now = revisionsOf(state);
    reportDifference(stored, now, 'store', events);
    stored = now;
  });
}

const revisionsOf = ({ lists }: App['state']): ReadonlyMap<string, unknown> =>
  new Map([...lists].map(([name, { list }]) => [name, list.revision]));

/** A file that has not changed is not read again: its list stays the same object. */
function reportFolder(before: FolderState, now: FolderState, events: EventLog): void {
  reportDifference(before.lists, now.lists, 'folder', events);
  const known = new Set(before.problems.map((problem) => JSON.stringify(problem)));
  const fresh = new Map<string, Problem[]>();
  for (const problem of now.problems) {
    const list = listNameOf(problem.file ?? '');
    if (!known.has(JSON.stringify(problem))) fresh.set(list, [...(fresh.get(list) ?? []), problem]);
  }
  for (const [list, [first, ...others]] of fresh) {
    const more = others.length > 0 ? ` (and ${others.length} more)` : '';
    const detail = first ? `${clipped(`${first.detail}: ${first.remedy}`, LONGEST_DETAIL)}${more}` : null;
    events.emit('list', { list, action: 'refused', source: 'folder', detail });
  }
}

function reportDifference(
  before: ReadonlyMap<string, unknown>,
  now: ReadonlyMap<string, unknown>,
  source: 'folder' | 'store',
  events: EventLog,
): void {
  const emit = (list: string, action: 'created' | 'changed' | 'deleted'): void =>
    events.emit('list', { list, action, source, detail: null });
  for (const [name, value] of now)
    if (!before.has(name)) emit(name, 'created');
    else if (before.get(name) !== value) emit(name, 'changed');
  for (const name of before.keys()) if (!now.has(name)) emit(name, 'deleted');
}

function reportFeeds({ feeds }: Pick<App, 'feeds'>, events: EventLog): void {
  feeds.changed.subscribe(({ reason, ...change }) =>
    events.emit('feed', { ...change, reason: reason && clipped(reason, LONGEST_DETAIL) }),
  );
}

/** Of containers that are completely known; the facts of the host are read some time after the start. */
function reportCoverage(app: CoverageParts & Pick<App, 'pass' | 'parts' | 'log'>, events: EventLog): void {
  const { docker, pass, parts, log, hostWatch } = app;
  const changes = parts.use(
    new CoverageChanges({
      containers: () =>
        hostWatch.host && hostWatch.engine
          ? [...docker.view().containers.values()].filter((c) => isUp(c.state) && c.privileges)
          : undefined,
      inputs: () => [docker.view(), app.applied.value, hostWatch.host, hostWatch.engine],
      findings: (c) => containerState(app, c).findings,
      onChange: ({ c, from, to, findings }) => {
        const reasons = findings.filter(({ state }) => state !== 'enforced').slice(0, MOST_REASONS);
        const texts = reasons.map((finding) => clipped(findingText(finding), LONGEST_DETAIL));
        const fell = hasFallen({ from, to });
        events.emit('coverage', { container: c.name, id: c.id, from, to, fell, reasons: texts });
      },
      onError: (error) =>
        log.error({ err: error }, 'changes of coverage are not reported: an error of Drawbridge'),
      now: () => performance.now(),
    }),
  );
  pass.installed.subscribe(() => changes.request());
}
