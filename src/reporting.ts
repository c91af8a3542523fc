/** The parts of the service that report what happens. They read the other parts and subscribe to them; no other part needs them. */
import type { App } from './app.js';
import type { DenialEvent } from './enforce/denials.js';
import { EventLog } from './events/event-log.js';
import type { Contact } from './events/service-events.js';
import { FlowStore } from './flows/flow-store.js';
import { PassedFlows } from './flows/passed-flows.js';
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
  return { events, flows, passed: reportPassed(app, { events, flows }) };
}

/** Begins what has work of its own: the service is ready, and waits for none of it. */
export function beginReporting({ flows, passed }: Reporting): void {
  flows.begin();
  setTimeout(() => passed.begin(), PASSED_MS).unref();
}
/** What the service does at its start, and requests that waited for it, go before another thread. */
const PASSED_MS = 1_000;

function reportPassed(app: App, { events, flows }: { events: EventLog; flows: FlowStore }): PassedFlows {
  const passed = app.parts.use(new PassedFlows({ ...app, folder: app.config.state }));
  passed.recorded.subscribe((contacts) => {
    for (const { id, first, last, ...flow } of contacts) {
      events.emit('flow', flow);
      flows.add({ ...flow, id, time: first, last });
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
    const seen = { ...contact, packets: denial.proto === 'dns' ? 0 : 1, bytes: 0 };
    events.emit('flow', seen);
    flows.add({ ...seen, id: denial.container, time: Date.parse(denial.time), count: 1 });
  });
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
