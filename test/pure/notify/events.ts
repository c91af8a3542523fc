/** Events for tests. */
import type { EventData, EventKind, ServiceEvent } from '../../../src/events/service-events.js';

let number = 0;
export const eventOf = <K extends EventKind>(
  kind: K,
  data: EventData[K],
  time = '2030-01-01T00:00:00.000Z',
): ServiceEvent => ({ id: `1893456000000.${++number}`, time, kind, data }) as ServiceEvent;

export const FLOW: EventData['flow'] = {
  container: 'web',
  owner: 'name:web',
  verdict: 'deny',
  proto: 'tcp',
  address: '192.0.2.7',
  port: 443,
  name: 'evil.example',
  reason: 'no entry permits it',
  entry: null,
  list: null,
  feed: null,
  packets: 1,
  bytes: 60,
};
const { packets: _, bytes: __, ...CONTACT } = FLOW;
export const FIRST: EventData['first-contact'] = { ...CONTACT, known: false };
export const ASK: EventData['ask'] = {
  id: 'a1',
  container: 'web',
  owner: 'name:web',
  name: 'new.example',
  address: '192.0.2.8',
  port: 443,
  proto: 'tcp',
  state: 'pending',
  until: '2030-01-01T00:00:30.000Z',
  by: null,
};
export const COVERAGE: EventData['coverage'] = {
  container: 'web',
  id: 'abc',
  from: 'enforced',
  to: 'partial',
  fell: true,
  reasons: ['privileged'],
};

/** One event of each kind. */
export const ALL: readonly ServiceEvent[] = [
  eventOf('flow', FLOW),
  eventOf('first-contact', FIRST),
  eventOf('ask', ASK),
  eventOf('container', { container: 'web', id: 'abc', image: 'nginx', action: 'start' }),
  eventOf('list', { list: 'npm', action: 'refused', source: 'folder', detail: 'bad entry' }),
  eventOf('feed', { feed: 'drop', status: 'failed', reason: 'status 500', entries: 12 }),
  eventOf('coverage', COVERAGE),
  eventOf('repair', { detail: 'rules of Drawbridge were missing or changed' }),
  eventOf('canary', { ok: false, detail: 'a denied packet got out' }),
];
