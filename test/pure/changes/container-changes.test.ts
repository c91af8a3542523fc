import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { Changes, NextMoment } from '../../../src/changes/changes.js';
import { findContainer } from '../../../src/changes/container-changes.js';
import { Deadlines } from '../../../src/changes/stored-state.js';
import type { Logger } from '../../../src/lib/log.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { Policy } from '../../../src/policy/policy.js';
import { pauseOf, underEmergency } from '../../../src/policy/policy.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import type { Store } from '../../../src/store/store-interface.js';
import { entriesOf } from '../ruleset/sample.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const ID = 'a'.repeat(64);
const OTHER = 'b'.repeat(64);
const facts = (id: string, name: string): ContainerFacts => ({
  id,
  name,
  image: 'busybox',
  imageId: 'sha256:1',
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'bridge',
  endpoints: [],
  published: [],
});
const containers = [facts(ID, 'web'), facts(OTHER, 'db')];

const START = Date.parse('2030-01-01T00:00:00Z');
const MINUTE = 60_000;
let dir: string;
let store: Store;
let changes: Changes;
let audit: Audit;
/** The wall clock, and the one that only counts. */
let wall: number;
let counted: number;
let inForce: () => Promise<void>;

async function open(): Promise<void> {
  audit = await Audit.open({ dir, store, kind: 'embedded', now: () => wall, log: quiet });
  changes = await Changes.open({
    store,
    audit,
    reconciler: { inForce: () => inForce() },
    log: quiet,
    folderLists: () => [],
    usedBy: () => [],
    find: (idOrName) => findContainer(containers, idOrName),
    denied: () => entriesOf('!10.0.0.0/8'),
    now: () => wall,
    monotonic: () => counted,
    onChange: () => undefined,
  });
}
function pass(ms: number): void {
  wall += ms;
  counted += ms;
}
/** The service ends and starts anew; the monotonic clock begins at zero. */
async function restart(downMs: number): Promise<void> {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  wall += downMs;
  counted = 0;
  store = await openEmbeddedStore({ dir, log: quiet });
  await open();
}
const paused = (): string[] => changes.current().pauses.map((p) => p.owner);

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-emergency-'));
  store = await openEmbeddedStore({ dir, log: quiet });
  wall = START;
  counted = 1000;
  inForce = async () => {};
  await open();
});
afterEach(async () => {
  changes.close();
  await audit[Symbol.asyncDispose]();
  await store.close();
  await rm(dir, { recursive: true });
});

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.catch((e: unknown) => e);
  return error instanceof RefusedError ? error.refusal.kind : `not refused: ${String(error)}`;
}

describe('a pause', () => {
  it('holds for its time, over a restart, and not a moment longer', async () => {
    const pause = await changes.emergency.pause('web', 10 * MINUTE, 'ann');
    expect(pause).toEqual({
      owner: `id:${ID}`,
      created: '2030-01-01T00:00:00.000Z',
      expires: '2030-01-01T00:10:00.000Z',
      by: 'ann',
    });
    pass(4 * MINUTE);
    expect(paused()).toEqual([`id:${ID}`]);
    await restart(MINUTE);
    expect(paused()).toEqual([`id:${ID}`]);
    pass(5 * MINUTE);
    expect(paused()).toEqual([]);
  });

  it('is over when its time passed while the service was away, and leaves the store', async () => {
    await changes.emergency.pause(undefined, MINUTE, 'ann');
    await restart(2 * MINUTE);
    expect(paused()).toEqual([]);
    expect(await store.list('pause/')).toEqual([]);
    expect((await audit.page(10, undefined)).items.map((r) => [r.who, r.action])).toEqual([
      ['expiry', 'pause.end'],
      ['ann', 'pause.set'],
    ]);
  });

  it('gains nothing from a clock that is set back, while we run and over a restart', async () => {
    await changes.emergency.pause('web', 10 * MINUTE, 'ann');
    paused();
    pass(MINUTE);
    wall -= 3 * 60 * MINUTE;
    expect(paused()).toEqual([]); // its own beginning is in the future: in force is only what is certain
    wall += 3 * 60 * MINUTE;
    expect(paused()).toEqual([`id:${ID}`]);
    wall -= 4_000;
    pass(9 * MINUTE);
    expect(paused()).toEqual([]); // ten minutes were counted, whatever the wall clock says
  });

  it('does not count while the clock is ahead by days, and again when it is right, for the time it was made for', async () => {
    await changes.emergency.pause('web', 10 * MINUTE, 'ann');
    const { id } = await changes.containers.grant('web', 'a.example.com', 10 * MINUTE, 'ann');
    const granted = (): readonly string[] => changes.current().grants.map((grant) => grant.id);
    pass(MINUTE);
    wall += 30 * 24 * 60 * MINUTE;
    expect([...paused(), ...granted()]).toEqual([]);
    await changes.forget(() => false);
    wall -= 30 * 24 * 60 * MINUTE;
    expect([...paused(), ...granted()]).toEqual([`id:${ID}`, id]);
    pass(9 * MINUTE);
    expect([...paused(), ...granted()]).toEqual([]);
    await changes.forget(() => false);
    expect((await audit.page(10, undefined)).items.map((r) => [r.who, r.action])).toEqual(
      expect.arrayContaining([
        ['expiry', 'pause.end'],
        ['expiry', 'grant.remove'],
      ]),
    );
    wall -= 5 * MINUTE;
    expect([...paused(), ...granted()]).toEqual([]);
  });

  it('over a restart with a clock set back never lasts longer than it was made for', () => {
    const deadlines = new Deadlines(() => counted);
    const span = { created: '2030-01-01T00:00:00Z', expires: '2030-01-01T00:10:00Z' };
    const back = START - 4_000; // within what is taken for an adjusted clock
    expect(deadlines.isInForce('pause/x', span, back)).toBe(true);
    counted += 10 * MINUTE;
    expect(deadlines.isInForce('pause/x', span, back)).toBe(false);
    expect(deadlines.hasPassed('pause/x', span, back)).toBe(true);
  });

  it('is ended by name, by all, refused where there is none; the newest takes the place of the last', async () => {
    expect(await refusal(changes.emergency.endPause('web', 'ann'))).toBe('not-found');
    await changes.emergency.pause('web', MINUTE, 'ann');
    await changes.emergency.pause('web', 2 * MINUTE, 'bob');
    expect(changes.current().pauses.map((p) => [p.by, p.expires])).toEqual([
      ['bob', '2030-01-01T00:02:00.000Z'],
    ]);
    await changes.emergency.endPause('web', 'ann');
    await changes.emergency.pause('db', MINUTE, 'ann');
    await changes.emergency.pause(undefined, MINUTE, 'ann');
    expect(await refusal(changes.emergency.endPause('web', 'ann'))).toBe('conflict');
    await changes.emergency.endPause(undefined, 'ann');
    expect(paused()).toEqual([]);
  });

  it.each([0, 999, 8 * 86_400_000])('of %d ms is refused', async (ms) => {
    expect(await refusal(changes.emergency.pause('web', ms, 'ann'))).toBe('invalid');
  });

  it('dies with its container', async () => {
    await changes.emergency.pause('web', MINUTE, 'ann');
    await changes.forget((id) => id === ID);
    expect(paused()).toEqual([]);
  });

  it('that is not in force in time is undone', async () => {
    inForce = async () => {
      throw new Error('the kernel is busy');
    };
    expect(await refusal(changes.emergency.pause('web', MINUTE, 'ann'))).toBe('not-in-force');
    expect(paused()).toEqual([]);
    expect((await audit.page(1, undefined)).items[0]).toMatchObject({ outcome: 'undone' });
  });
});

describe('the moment when something ends', () => {
  const at = (ms: number): string => new Date(START + ms).toISOString();
  let due: number;
  let over: boolean;
  let moment: NextMoment;
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    due = 0;
    over = false;
    moment = new NextMoment(
      () => wall,
      () => due++,
      () => over,
    );
  });
  afterEach(() => {
    moment.stop();
    vi.useRealTimers();
  });
  /** Time passes by both clocks. */
  function elapse(ms: number): void {
    for (let done = 0; done < ms; done += 1000) {
      wall += 1000;
      vi.advanceTimersByTime(1000);
    }
  }

  it('comes once, and not too early', () => {
    moment.arm([at(5 * MINUTE), undefined, at(7 * MINUTE), at(-MINUTE)]);
    elapse(5 * MINUTE - 1000);
    expect(due).toBe(0);
    elapse(1000);
    expect(due).toBe(1);
    elapse(10 * MINUTE);
    expect(due).toBe(1); // the one who is called arms anew
  });

  it('comes soon when the clock is set forward past it', () => {
    moment.arm([at(60 * MINUTE)]);
    elapse(MINUTE);
    wall += 60 * MINUTE;
    elapse(10_000);
    expect(due).toBe(1);
  });

  it('comes when something has ended by the other clock, though the wall clock was set back', () => {
    moment.arm([at(5 * MINUTE)]);
    wall -= 60 * MINUTE;
    elapse(10_000);
    expect(due).toBe(1); // the clock was set
    moment.arm([at(60 * MINUTE)]);
    elapse(5 * MINUTE);
    expect(due).toBe(1);
    over = true;
    elapse(10_000);
    expect(due).toBe(2);
  });

  it('is not put off by a retry, nor is the retry by it', () => {
    moment.arm([at(20_000)]);
    moment.again(60_000);
    elapse(20_000);
    expect(due).toBe(1);
    elapse(40_000);
    expect(due).toBe(2);
  });
});

describe('the lockdown', () => {
  it('is stored, audited, asked for twice without harm, and survives a restart', async () => {
    const first = await changes.emergency.setLockdown(true, 'ann');
    expect(first).toEqual({ since: '2030-01-01T00:00:00.000Z', by: 'ann' });
    expect(await changes.emergency.setLockdown(true, 'bob')).toEqual(first);
    await restart(MINUTE);
    expect(changes.current().lockdown).toEqual(first);
    await changes.emergency.setLockdown(false, 'bob');
    await restart(MINUTE);
    expect(changes.current().lockdown).toBeUndefined();
    const records = (await audit.page(10, undefined)).items;
    expect(records.map((r) => [r.who, r.action, r.target])).toEqual([
      ['bob', 'lockdown.off', 'all'],
      ['ann', 'lockdown.on', 'all'],
    ]);
  });

  it('that cannot be read is one all the same', async () => {
    await store.put('lockdown/all', 7);
    await restart(0);
    expect(changes.current().lockdown).toEqual({ since: '', by: 'unknown' });
  });
});

describe('over a policy', () => {
  const policy: Policy = {
    mode: 'enforce',
    modeSource: { kind: 'label' },
    entries: [],
    lists: ['npm'],
    notes: [{ detail: 'a', remedy: 'b' }],
  };
  const pause = {
    owner: `id:${ID}`,
    created: '2030-01-01T00:00:00Z',
    expires: '2030-01-01T00:10:00Z',
    by: 'ann',
  };
  const all = { ...pause, owner: 'all', expires: '2030-01-01T01:00:00Z' };
  const lockdown = { since: '2030-01-01T00:00:00Z', by: 'ann' };

  it('a pause observes what was enforced, and only that', () => {
    const now = { lockdown: undefined, pauses: [pause] };
    expect(underEmergency(policy, now, ID)).toMatchObject({ mode: 'observe', modeSource: { kind: 'pause' } });
    expect(underEmergency(policy, now, OTHER)).toBe(policy);
    expect(underEmergency({ ...policy, mode: 'off' }, now, ID).mode).toBe('off');
  });

  it('the pause that lasts longest counts', () => {
    expect(pauseOf({ lockdown: undefined, pauses: [pause, all] }, ID)).toBe(all);
    expect(pauseOf({ lockdown: undefined, pauses: [all, pause] }, ID)).toBe(all);
  });

  it('the lockdown beats a pause, and leaves nothing', () => {
    const locked = underEmergency({ ...policy, mode: 'off' }, { lockdown, pauses: [all] }, ID);
    expect(locked).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'lockdown' },
      entries: [],
      lists: [],
    });
  });
});

describe('the audit', () => {
  it('is read in pages, newest first', async () => {
    for (let n = 0; n < 5; n++) {
      wall += 1000;
      await changes.emergency.setLockdown(n % 2 === 0, `u${n}`);
    }
    const first = await audit.page(2, undefined);
    expect(first.items.map((r) => r.who)).toEqual(['u4', 'u3']);
    const second = await audit.page(2, first.next);
    expect(second.items.map((r) => r.who)).toEqual(['u2', 'u1']);
    const last = await audit.page(2, second.next);
    expect([last.items.map((r) => r.who), last.next]).toEqual([['u0'], undefined]);
  });
});

describe('deny entries', () => {
  it('refuse a grant that one of them covers as a whole', async () => {
    await expect(changes.containers.grant('web', '10.1.0.0/16:22', undefined, 'me')).rejects.toThrow(
      /would have no effect: !10\.0\.0\.0\/8 denies it/,
    );
    await expect(changes.containers.grant('web', '192.0.2.1', undefined, 'me')).resolves.toBeDefined();
  });
  it('are no grants', async () => {
    await expect(changes.containers.grant('web', '!a.org', undefined, 'me')).rejects.toThrow(
      /a grant only permits/,
    );
  });
});
