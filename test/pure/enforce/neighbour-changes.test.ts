/** A service that is recreated is no incident: which denials wait, which are told, and whose an address was. */
import { describe, expect, it } from 'vitest';
import { AWAY_MS, HeldDenials, NeighbourChanges } from '../../../src/enforce/neighbour-changes.js';
import type { DenialEvent } from '../../../src/flows/denials.js';
import { parseCidr } from '../../../src/lib/ip.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { DenyClass } from '../../../src/ruleset/deny-plan.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';

const NET = 'n1';
const facts = (id: string, service: string, ip4: string, networkId = NET, project = 'shop'): ContainerFacts =>
  ({
    id,
    name: `${project}-${service}-1`,
    labels: { 'com.docker.compose.project': project, 'com.docker.compose.service': service },
    imageLabels: {},
    endpoints: ip4 === '' ? [] : [{ networkId, mac: '', ip4, dnsNames: [service] }],
  }) as unknown as ContainerFacts;
const networks = new Map([[NET, { id: NET, name: 'shop_default' }]]) as never;

const deniesDb = (...addresses: readonly string[]): DenyClass => {
  const statics = addresses.map((address) => ({ range: parseCidr(`${address}/32`) }));
  return { proto: 'tcp', ports: [{ lo: 5432, hi: 5432 }], statics } as never;
};
function bench() {
  const clock = { now: 1_000_000 };
  const free = new Set(['172.31.1.2']);
  const denied = { classes: [] as DenyClass[] };
  const subjects = { denied, isKnown: true };
  const subject = (id: string): Subject =>
    ({ id, neighbours: [...free], classes: [], denied: subjects.denied }) as unknown as Subject;
  const changes = new NeighbourChanges(
    () => clock.now,
    (id) => (subjects.isKnown ? subject(id) : undefined),
    () => undefined,
  );
  const view = (...all: readonly ContainerFacts[]): void =>
    changes.changed({ networks, containers: new Map(all.map((c) => [c.id, c])) });
  const told: DenialEvent[] = [];
  const held = new HeldDenials<DenialEvent>({
    changes,
    subject,
    searchDomains: () => ['lan'],
    now: () => clock.now,
  });
  const deny = (more: Partial<DenialEvent>): void => {
    const event: DenialEvent = {
      time: new Date(clock.now).toISOString(),
      container: 'app',
      verdict: 'would-deny',
      proto: 'tcp',
      address: '',
      port: 5432,
      name: null,
      reason: 'no entry permits it',
      ...more,
    };
    if (!held.take(event, (e) => told.push(e))) told.push(event);
  };
  const app = facts('app', 'app', '172.31.1.9');
  view(app, facts('db1', 'db', '172.31.1.2'));
  const wasFree = (address: string, time: number, other: object = {}): boolean =>
    changes.wasFree('app', { address, proto: 'tcp', port: 5432, time, ...other });
  return { clock, changes, view, held, told, deny, app, free, denied, subjects, wasFree };
}
const dns = (name: string) => ({ proto: 'dns', port: 53, name });

describe('a neighbour that is being recreated', () => {
  it('is no incident while Docker still has it, though its veth and its rules have gone', () => {
    const { clock, view, held, told, deny, app, free, wasFree } = bench();
    const vault = facts('v1', 'vault', '172.31.1.8', NET, 'other');
    view(app, facts('db1', 'db', '172.31.1.2'), vault);
    clock.now += 60_000;
    free.clear();
    deny(dns('db'));
    deny({ address: '172.31.1.2' });
    expect(wasFree('172.31.1.2', clock.now)).toBe(true);
    expect(told).toEqual([]);
    // no neighbour that is free
    deny(dns('vault'));
    deny({ address: '172.31.1.8' });
    expect(told.map(({ name, address }) => name ?? address)).toEqual(['vault', '172.31.1.8']);
    clock.now += 500;
    view(app, vault);
    // connections to it end with its rules, and are reported after the event
    expect(wasFree('172.31.1.2', clock.now)).toBe(true);
    held.check();
    clock.now += AWAY_MS - 1;
    held.check();
    expect(told.length).toBe(2);
    clock.now += 1;
    held.check();
    expect(told.slice(2).map(({ reason }) => reason.includes('left this network'))).toEqual([true, true]);
  });

  it('and comes back: neither its name nor its address is told', () => {
    const { clock, view, held, told, deny, app, free } = bench();
    view(app);
    free.clear();
    clock.now += 2_000;
    for (const name of ['db', 'db.lan', 'shop-db-1', 'db.shop_default']) deny(dns(name));
    deny({ address: '172.31.1.2' });
    deny({ address: '172.31.1.2', verdict: 'deny' });
    held.check();
    expect(told).toEqual([]);
    view(app, facts('db2', 'db', '172.31.1.7'));
    free.add('172.31.1.7');
    held.check();
    clock.now += AWAY_MS;
    held.check();
    expect(told).toEqual([]);
  });

  it('and does not: all are told after the time, each with the reason', () => {
    const { clock, view, held, told, deny, app } = bench();
    view(app);
    deny(dns('db'));
    deny({ address: '172.31.1.2', verdict: 'deny' });
    clock.now += AWAY_MS - 1;
    held.check();
    expect(told).toEqual([]);
    clock.now += 1;
    held.check();
    expect(told.map((e) => [e.verdict, e.name ?? e.address])).toEqual([
      ['would-deny', 'db'],
      ['deny', '172.31.1.2'],
    ]);
    expect(told[0]?.reason).toMatch(/; db left this network at 1970-/);
    // from then on at once
    deny(dns('db'));
    expect(told).toHaveLength(3);
  });

  it('and comes back, but may not be reached: its address is told', () => {
    const { clock, view, held, told, deny, app, free } = bench();
    view(app);
    free.clear();
    deny({ address: '172.31.1.2' });
    view(app, facts('db2', 'db', '172.31.1.7'));
    clock.now += AWAY_MS;
    held.check();
    expect(told).toHaveLength(1);
  });

  it.each([true, false])(
    'and another container has its address: what is denied there is told (known then: %s)',
    (isKnown) => {
      const { clock, view, held, told, deny, app, free } = bench();
      const vault = facts('v1', 'vault', '172.31.1.2', NET, 'other');
      view(app);
      free.clear();
      if (isKnown) view(app, vault);
      deny({ address: '172.31.1.2' });
      view(app, vault, facts('db2', 'db', '172.31.1.7'));
      free.add('172.31.1.7');
      held.check();
      clock.now += AWAY_MS;
      held.check();
      expect(told).toMatchObject([{ address: '172.31.1.2', verdict: 'would-deny' }]);
    },
  );

  it('and comes back where it was, when another container has had the address meanwhile: nothing is told', () => {
    const { clock, view, held, told, deny, app } = bench();
    view(app);
    view(app, facts('v1', 'vault', '172.31.1.2', NET, 'other'));
    view(app);
    deny({ address: '172.31.1.2' });
    view(app, facts('db2', 'db', '172.31.1.2'));
    held.check();
    clock.now += AWAY_MS;
    held.check();
    expect(told).toEqual([]);
  });

  it('when the service ends: what waits is told, and nothing waits from then on', () => {
    const { clock, view, held, told, deny, app } = bench();
    view(app);
    deny(dns('db'));
    clock.now += 1_000;
    held.end();
    expect(told).toMatchObject([{ name: 'db', time: '1970-01-01T00:16:40.000Z' }]);
    deny({ address: '172.31.1.2' });
    expect(told).toHaveLength(2);
  });

  it('a new address that the rules do not have yet waits, too', () => {
    const { view, held, told, deny, app, free } = bench();
    view(app);
    view(app, facts('db2', 'db', '172.31.1.7'));
    deny({ address: '172.31.1.7' });
    free.add('172.31.1.7');
    held.check();
    expect(told).toEqual([]);
  });
});

describe('is told at once', () => {
  it.each<[string, Partial<DenialEvent>]>([
    ['a name that no neighbour had', dns('redis')],
    ['a name below that of a neighbour', dns('db.example.com')],
    ['an address that no neighbour had', { address: '172.31.1.3' }],
    ['an address outside', { address: '93.184.1.1' }],
    ['a threat', { address: '172.31.1.2', verdict: 'threat' }],
    ['what a deny entry denies', { address: '172.31.1.2', decidedBy: { entry: '!172.31.0.0/16' } }],
    ['another container that was on no network of the neighbour', { ...dns('db'), container: 'other' }],
  ])('%s', (_, event) => {
    const { view, told, deny, app } = bench();
    view(app, facts('other', 'other', '10.0.0.2', 'n2'));
    deny(event);
    expect(told).toHaveLength(1);
  });
});

describe('an address', () => {
  it('is that of the neighbour that had it then, not of the one that has it now', () => {
    const { clock, changes, view, app } = bench();
    const before = clock.now;
    clock.now += 1_000;
    view(app);
    clock.now += 1_000;
    view(app, facts('db2', 'db', '172.31.1.7'), facts('n1', 'notifier', '172.31.1.2'));
    expect(changes.neighbourAt('app', '172.31.1.2', before)).toBe('container:db');
    expect(changes.neighbourAt('app', '172.31.1.2', clock.now - 500)).toBe('container:db');
    expect(changes.neighbourAt('app', '172.31.1.2', clock.now + 1)).toBe('container:notifier');
    expect(changes.neighbourAt('app', '172.31.1.7', clock.now)).toBe('container:db');
    expect(changes.neighbourAt('n1', '172.31.1.2', clock.now)).toBe('container:db');
    expect(changes.neighbourAt('app', '93.184.1.1', clock.now)).toBeUndefined();
  });

  it('is that of its service, and of the container itself where a service of another project has that name', () => {
    const { clock, changes, view, app } = bench();
    const [db, other] = [facts('db1', 'db', '172.31.1.2'), facts('db9', 'db', '172.31.1.8', NET, 'other')];
    const at = (id: string, address: string) => changes.neighbourAt(id, address, clock.now);
    view(app, db, other);
    expect([at('app', '172.31.1.2'), at('app', '172.31.1.8')]).toEqual([
      'container:shop-db-1',
      'container:other-db-1',
    ]);
    // a container does not resolve itself
    expect([at('db9', '172.31.1.2'), at('db1', '172.31.1.8')]).toEqual(['container:db', 'container:db']);
    view(app, other);
    clock.now += 1_000;
    expect(at('app', '172.31.1.8')).toBe('container:db');
    expect(changes.neighbourAt('app', '172.31.1.2', clock.now - 1_000)).toBe('container:shop-db-1');
    expect(changes.justLeft('app', () => true)?.label).toBe('shop-db-1');
    view(app, facts('db9', 'db', '10.0.0.8', 'n2', 'other'), db);
    expect(at('app', '172.31.1.2')).toBe('container:db');
  });

  it('was free for those whose neighbour it was, until a moment after it left', () => {
    const { clock, wasFree, view, app } = bench();
    view(app);
    expect(wasFree('172.31.1.2', clock.now + 1_000)).toBe(true);
    expect(wasFree('172.31.1.3', clock.now)).toBe(false);
    expect(wasFree('172.31.1.2', clock.now + AWAY_MS)).toBe(false);
  });

  it('is free from the moment that a neighbour joins with it, before the rules for it are installed', () => {
    const { clock, wasFree, view, app, free } = bench();
    free.clear(); // no pass has applied any of what follows
    const at = (ms: number, address = '172.31.1.7') => wasFree(address, clock.now + ms);
    clock.now += 60_000;
    const vault = facts('v1', 'vault', '172.31.1.8', NET, 'other');
    view(app, facts('db2', 'db', '172.31.1.7'), vault);
    expect([at(-2_000), at(-500), at(0), at(AWAY_MS)]).toEqual([false, true, true, true]);
    expect(at(0, '172.31.1.8')).toBe(false); // no neighbour of the same project: its rules will not permit it
    // what was there before was no free neighbour
    clock.now += 60_000;
    view(app);
    clock.now += 100;
    view(app, facts('db3', 'db', '172.31.1.8'));
    expect([at(-500, '172.31.1.8'), at(0, '172.31.1.8')]).toEqual([false, true]);
  });

  it('is not free where a deny entry covers it, whoever has or had it', () => {
    const { clock, wasFree, view, app, denied } = bench();
    denied.classes = [deniesDb('172.31.1.7', '172.31.1.2')];
    view(app, facts('db2', 'db', '172.31.1.7'));
    for (const address of ['172.31.1.7', '172.31.1.2']) {
      expect(wasFree(address, clock.now)).toBe(false);
      expect(wasFree(address, clock.now, { port: 80 })).toBe(true);
      expect(wasFree(address, clock.now, { proto: 'udp' })).toBe(true);
    }
  });

  it('was not free where a deny entry covered it until its neighbour left, and is not while no entries are known', () => {
    const { clock, wasFree, view, app, subjects } = bench();
    const applied = subjects.denied;
    subjects.denied = { classes: [deniesDb('172.31.1.2')] };
    view(app, facts('db2', 'db', '172.31.1.7'));
    // an entry by name: its plan has the address of the next container by now
    subjects.denied = applied;
    expect(wasFree('172.31.1.2', clock.now)).toBe(false);
    expect(wasFree('172.31.1.2', clock.now, { port: 80 })).toBe(true);
    expect(wasFree('172.31.1.7', clock.now)).toBe(true);
    subjects.isKnown = false;
    expect(wasFree('172.31.1.7', clock.now)).toBe(false);
    expect(wasFree('172.31.1.2', clock.now, { port: 80 })).toBe(true); // it was known then
  });

  it('was free no longer when a container of another owner had it', () => {
    const { clock, wasFree, view, app, free } = bench();
    const at = (ms: number) => wasFree('172.31.1.2', clock.now + ms);
    view(app);
    clock.now += 1_000;
    view(app, facts('db2', 'db', '172.31.1.2'));
    expect(at(1)).toBe(true);
    view(app);
    clock.now += 1_000;
    free.clear();
    view(app, facts('v1', 'vault', '172.31.1.2', NET, 'other'));
    expect([at(-1), at(0), at(1_000)]).toEqual([true, false, false]);
    clock.now += 1_000;
    view(app);
    expect([at(-1_001), at(0)]).toEqual([true, false]);
  });

  it('and of a container that is gone its name is known, and where it was', () => {
    const { clock, changes, view } = bench();
    view(facts('db1', 'db', '172.31.1.2'));
    expect(changes.former('app')).toMatchObject({ name: 'shop-app-1', owner: 'compose:shop/app' });
    expect(changes.neighbourAt('app', '172.31.1.2', clock.now)).toBe('container:db');
  });
});
