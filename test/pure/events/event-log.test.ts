import { describe, expect, it } from 'vitest';
import { EventLog } from '../../../src/events/event-log.js';
import type { ServiceEvent } from '../../../src/events/service-events.js';
import { FLOW } from '../notify/events.js';

const repair = (n: number) => ({ detail: String(n) });
const details = (events: readonly ServiceEvent[]): readonly string[] =>
  events.map((e) => (e.kind === 'repair' ? e.data.detail : ''));

describe('the log of events', () => {
  it('numbers events and gives a reader what follows the one that it has seen', () => {
    const log = new EventLog(() => 1_000);
    const seen: ServiceEvent[] = [];
    using _ = log.subscribe((event) => seen.push(event));
    for (let n = 1; n <= 3; n++) log.emit('repair', repair(n));
    expect(seen.map((e) => e.id)).toEqual(['1000.1', '1000.2', '1000.3']);
    expect(seen[0]).toEqual({
      id: '1000.1',
      time: '1970-01-01T00:00:01.000Z',
      kind: 'repair',
      data: { detail: '1' },
    });
    expect(details(log.after('1000.1').events)).toEqual(['2', '3']);
    expect(log.after('1000.1').missed).toBe(0);
    expect(log.after('1000.3')).toEqual({ events: [], missed: 0 });
  });

  it('gives all that it keeps for an id of another run, of the future, or that is none', () => {
    const log = new EventLog(() => 1_000);
    log.emit('repair', repair(1));
    for (const id of ['999.1', '1000.2', '1000.x', '', 'x'])
      expect({ id, ...log.after(id) }).toEqual({ id, events: [expect.anything()], missed: undefined });
  });

  it('counts what it no longer keeps', () => {
    const log = new EventLog(() => 1_000);
    for (let n = 1; n <= 25_000; n++) log.emit('repair', repair(n));
    const { events, missed = 0 } = log.after('1000.10');
    expect(events.length).toBeGreaterThanOrEqual(10_000);
    expect(events.length).toBeLessThanOrEqual(11_000);
    expect(missed + events.length).toBe(25_000 - 10);
    expect(details(events).at(-1)).toBe('25000');
  });

  it('keeps the events of a container, whatever others do, and those of another kind', () => {
    const log = new EventLog(() => 1_000);
    const flow = (container: string, verdict: 'deny' | 'threat', port: number) =>
      log.emit('flow', { ...FLOW, container, verdict, port });
    for (let n = 1; n <= 500; n++) flow('web', 'deny', n);
    flow('bad', 'threat', 1);
    for (let n = 1; n <= 30_000; n++) flow('bad', 'deny', n);
    const { events, missed = 0 } = log.after('1000.0');
    const of = (container: string, verdict: string) =>
      events.filter(
        ({ data }) => 'verdict' in data && data.container === container && data.verdict === verdict,
      );
    expect([of('web', 'deny').length, of('bad', 'threat').length]).toEqual([500, 1]);
    expect(missed + events.length).toBe(30_501);
    expect(log.after('1000.30500')).toMatchObject({ events: [{ data: { port: 30_000 } }], missed: 0 });
    expect(log.after('1000.100').events.length).toBe(events.length - 100);
  });

  it('ends a subscription', () => {
    const log = new EventLog(() => 1_000);
    const seen: ServiceEvent[] = [];
    log.subscribe((event) => seen.push(event))[Symbol.dispose]();
    log.emit('repair', repair(1));
    expect(seen).toEqual([]);
  });
});
