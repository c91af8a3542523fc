/** The parts of the service that report what happens. They read the other parts and subscribe to them; no other part needs them. */
import { Metrics } from './api/metrics.js';
import type { App } from './app.js';
import type { DenialEvent } from './enforce/denials.js';
import { EventLog } from './events/event-log.js';
import type { Contact } from './events/service-events.js';
import { FlowStore } from './flows/flow-store.js';
import { PassedFlows } from './flows/passed-flows.js';
import { exec } from './kernel/exec.js';
import { Canary } from './ops/canary.js';
import { ownerKey } from './policy/own-labels.js';

export type Reporting = ReturnType<typeof buildReporting>;

/** Builds them, before the start. */
export function buildReporting(app: App) {
  const { config, log, parts } = app;
  const events = new EventLog();
  const flows = parts.use(new FlowStore({ ...config.flows, folder: config.state, log, now: Date.now }));
  flows.firstContact.subscribe((contact) => events.emit('first-contact', contact));
  reportStarts(app, flows);
  reportDenials(app, { events, flows });
  app.recording.notLogged.subscribe((count) => flows.lose(count));
  reportContainers(app, events);
  reportRepairs(app, events);
  const canary = canaryOf(app, events);
  const passed = reportPassed(app, { events, flows });
  const metrics = new Metrics({ ...app, events, flows, prefix: app.shape.prefix });
  return { events, flows, canary, metrics, passed };
}

/** Begins what has work of its own: the service is ready, and waits for none of it. */
export function beginReporting({ flows, canary, passed }: Reporting): void {
  flows.begin();
  canary.begin();
  setTimeout(() => passed.begin(), PASSED_MS).unref();
}
/** What the service does at its start, and requests that waited for it, go before another thread. */
const PASSED_MS = 1_000;
/** A record is of less than a minute (flows/flow-file.ts). */
const LONGEST_MS = 59_000;

function reportPassed(app: App, { events, flows }: { events: EventLog; flows: FlowStore }): PassedFlows {
  const passed = app.parts.use(new PassedFlows({ ...app, folder: app.config.state }));
  passed.recorded.subscribe((contacts) => {
    for (const { id, first, last, ...flow } of contacts) {
      // What passes only because the container is observed was reported when its first packet was logged.
      if (flow.verdict === 'allow') events.emit('flow', flow);
      flows.add({ ...flow, id, time: Math.max(first, last - LONGEST_MS), last });
    }
  });
  passed.missed.subscribe((count) => flows.lose(count));
  return passed;
}

/** The owner of a container is recorded since its first start, or since the service has found it running. */
function reportStarts({ docker }: App, flows: FlowStore): void {
  const seen = new Set<string>();
  docker.onChange((view, change) => {
    const started =
      change.kind === 'event' && change.event.kind === 'container' && change.event.action === 'start'
        ? change.event.id
        : undefined;
    for (const facts of view.containers.values()) {
      const isStart = facts.id === started;
      if (facts.state !== 'running' || (seen.has(facts.id) && !isStart)) continue;
      seen.add(facts.id);
      flows.started({ owner: ownerKey(facts), id: facts.id, isStart });
    }
    for (const id of seen) if (!view.containers.has(id)) seen.delete(id);
  });
}

function reportDenials(app: App, { events, flows }: Pick<Reporting, 'events' | 'flows'>): void {
  app.denials.onEvent((denial) => {
    const contact = contactOf(app, denial);
    // Conntrack counts what has passed (flows/passed-flows.ts), but for namespaces of macvlan, which it does not read.
    const isCounted = denial.hasPassed && isOnBridge(app, denial.container);
    const count = isCounted ? 0 : 1;
    const packets = isCounted || denial.proto === 'dns' ? 0 : 1;
    events.emit('flow', { ...contact, packets, bytes: 0 });
    flows.add({ ...contact, packets, bytes: 0, id: denial.container, time: Date.parse(denial.time), count });
  });
}

function isOnBridge({ applied }: App, container: string): boolean {
  const subject = applied.value?.subjects.get(container);
  return subject !== undefined && (subject.veths.length > 0 || subject.host !== undefined);
}

/** Events carry the id of the container; readers know its name. */
function contactOf({ docker }: App, denial: DenialEvent): Contact {
  const { container, verdict, proto, address, port, name, reason, decidedBy = {} } = denial;
  const facts = docker.view().containers.get(container);
  const owner = facts ? ownerKey(facts) : `id:${container}`;
  const { entry = null, list = null, feed = null } = decidedBy;
  const shown = facts?.name ?? container;
  return { container: shown, owner, verdict, proto, address, port, name, reason, entry, list, feed };
}

function canaryOf(app: App, events: EventLog): Canary {
  const { config, shape, parts } = app;
  const canary = parts.use(
    new Canary({ ...app, prefix: shape.prefix, everyMs: config.canary.everyMs, run: exec }),
  );
  canary.changed.subscribe(({ ok, detail }) => {
    if (ok !== null) events.emit('canary', { ok, detail });
  });
  return canary;
}

function reportContainers({ docker }: App, events: EventLog): void {
  docker.onChange((view, change) => {
    if (change.kind !== 'event' || change.event.kind !== 'container') return;
    const { id, action } = change.event;
    const { name = id.slice(0, 12), image = '' } = view.containers.get(id) ?? {};
    events.emit('container', { container: name, id, image, action });
  });
}

function reportRepairs({ pass, maintenance }: App, events: EventLog): void {
  pass.installed.subscribe(({ repaired }) => {
    if (repaired) events.emit('repair', { detail: 'rules of Drawbridge were missing or changed' });
  });
  maintenance.recordLost.subscribe(() =>
    events.emit('repair', { detail: 'the record of the store in the kernel was removed' }),
  );
}
