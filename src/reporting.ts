/** The parts of the service that report what happens. They read the other parts and subscribe to them; no other part needs them. */
import type { App } from './app.js';
import type { DenialEvent } from './enforce/denials.js';
import { EventLog } from './events/event-log.js';
import type { Contact } from './events/service-events.js';
import { ownerKey } from './policy/own-labels.js';

export type Reporting = ReturnType<typeof buildReporting>;

/** Builds them, before the start. */
export function buildReporting(app: App) {
  const events = new EventLog();
  reportFlows(app, events);
  reportContainers(app, events);
  reportRepairs(app, events);
  return { events };
}

function reportFlows(app: App, events: EventLog): void {
  app.denials.onEvent((denial) => events.emit('flow', { ...contactOf(app, denial), packets: 1, bytes: 0 }));
}

/** Events carry the id of the container; readers know its name. */
function contactOf({ docker }: App, { container, time: _, ...denial }: DenialEvent): Contact {
  const facts = docker.view().containers.get(container);
  const name = facts?.name ?? container;
  const owner = facts ? ownerKey(facts) : `id:${container}`;
  return { ...denial, container: name, owner, entry: null, list: null, feed: null };
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
