import { afterEach, expect, it } from 'vitest';
import { Fleet } from '../../../src/changes/fleet.js';
import type { Beats } from '../../../src/store/store-interface.js';

const own = {
  version: '0.1.0',
  revision: 7,
  inSync: true,
  containers: 1,
  enforced: 1,
  observed: 0,
  partial: 0,
  unenforced: 0,
};
type Beat = Awaited<ReturnType<Beats['beats']>>[number];

/** A store of beats in memory, whose ages the test sets. */
class Memory implements Beats {
  readonly isShared: boolean = true;
  readonly seen = new Map<string, Beat>();
  async beat(node: string, record: unknown): Promise<void> {
    this.seen.set(node, { node, record, ageMs: 0 });
  }
  async beats(): Promise<readonly Beat[]> {
    return [...this.seen.values()];
  }
  async forget(node: string): Promise<boolean> {
    return this.seen.delete(node);
  }
}
const said: string[] = [];
const say = (o: object, msg?: string): void => void said.push(`${msg} ${JSON.stringify(o)}`);
const log = { debug() {}, info: say, warn: say, error: say };
let fleet: Fleet | undefined;
afterEach(async () => {
  await fleet?.[Symbol.asyncDispose]();
  said.length = 0;
});
async function open(beats: Beats): Promise<Fleet> {
  fleet = new Fleet({ node: 'here', beats, log });
  const opened = fleet;
  opened.begin(() => own);
  await opened[Symbol.asyncDispose]();
  return opened;
}

it('gives its own sign of life, and alarms of a host that is silent', async () => {
  const beats = new Memory();
  beats.seen.set('gone', { node: 'gone', record: { ...own, instance: 'x' }, ageMs: 31_000 });
  beats.seen.set('odd', { node: 'odd', record: { of: 'another version' }, ageMs: 0 });
  const opened = await open(beats);
  expect(opened.nodes.map((n) => [n.node, n.state, n.revision])).toEqual([
    ['gone', 'stale', 7],
    ['here', 'ok', 7],
  ]);
  expect(opened.stale).toEqual(['gone']);
  expect(said).toEqual([expect.stringMatching(/a host is silent.*drawbridge nodes.*"gone"/)]);
});

it('with a store of this host alone, it reports what is asked for, as it is then', async () => {
  class Alone extends Memory {
    override readonly isShared = false;
  }
  const beats = new Alone();
  fleet = new Fleet({ node: 'here', beats, log });
  let asked = 0;
  fleet.begin(() => ({ ...own, containers: ++asked }));
  await fleet[Symbol.asyncDispose]();
  expect(fleet.nodes).toMatchObject([{ node: 'here', containers: 1 }]);
  expect(asked).toBe(1);
  beats.seen.set('here', { node: 'here', record: own, ageMs: 600_000 });
  expect(await fleet.refresh()).toMatchObject([{ node: 'here', state: 'ok', containers: 2 }]);
  await fleet.forget('here');
  expect(await fleet.refresh()).toMatchObject([{ node: 'here', containers: 3 }]);
  expect(said).toEqual([]);
});

it('goes on without a store', async () => {
  const beats = new Memory();
  beats.beat = () => Promise.reject(new Error('away'));
  const opened = await open(beats);
  expect(opened.nodes).toEqual([]);
  expect(said).toEqual([]);
});
