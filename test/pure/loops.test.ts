/** Loops of the service go on after an error in one of their turns, and report it. Those of `Repeated` are tested in lib/async.test.ts. */
import { expect, it, vi } from 'vitest';
import type { KeyChange } from '../../src/changes/change-record.js';
import { StoreTrust } from '../../src/changes/store-trust.js';
import { UnwrittenChanges, type UnwrittenOptions } from '../../src/changes/unwritten-changes.js';
import { EventStream } from '../../src/docker/docker-events.js';
import { containing } from './contained-log.js';

const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

interface Loop {
  /** What is logged for a turn that has failed. */
  readonly undone: string;
  /** Asks for a turn, where the loop does not turn by itself. */
  readonly ask?: () => void;
  readonly end: () => unknown;
}
/** Each gets a part that is called with every turn, and throws in the first one. */
const LOOPS: Readonly<Record<string, (part: () => void) => Loop | Promise<Loop>>> = {
  'the connection to Docker': (part) => {
    const stream = new EventStream({
      engine: { events: () => Promise.reject(new Error('away')), abort: nothing },
      log,
      resyncMs: 60_000,
      onLine: nothing,
      onOpening: nothing,
      onOpen: async () => undefined,
      onEnd: part,
      seq: () => 0,
      isUnreported: async () => false,
    } as unknown as ConstructorParameters<typeof EventStream>[0]);
    stream.start();
    return { undone: 'the end of the connection to Docker was not noted', end: () => stream.close() };
  },
  'the record of the store in the kernel': async (part) => {
    let isOpen = false;
    const trust = await StoreTrust.open({
      store: {
        identity: () => {
          if (isOpen) part();
          return 'one';
        },
        revision: () => 1,
        health: () => ({ ok: true, detail: '' }),
      },
      isShared: false,
      sets: { members: async () => undefined },
      run: async () => ({ code: 0, stdout: '', stderr: '' }),
      prefix: 'DB',
      former: [],
      log,
      modes: () => undefined,
      onChange: nothing,
      now: () => 0,
    });
    isOpen = true;
    return {
      undone: 'the revision of the store is not noted in the kernel',
      ask: () => trust.rewrite(),
      end: () => trust.close(),
    };
  },
  'changes that the store has not taken': (part) => {
    const unwritten = new UnwrittenChanges({
      store: { put: () => Promise.reject(new Error('full')) },
      state: { revisionOf: () => 0, override: nothing },
      audit: { record: async () => undefined },
      log,
      serial: async (_: string, work: () => Promise<unknown>) => {
        part();
        return work();
      },
    } as unknown as UnwrittenOptions);
    const change = { key: 'lockdown/all', before: undefined, after: {}, who: 'ann', action: 'lockdown.on' };
    unwritten.hold(change as unknown as KeyChange, { seen: 0, why: 'full', now: '', isRecorded: true });
    return {
      undone: 'a change is in force from memory only: storing it is tried again',
      end: () => unwritten.close(),
    };
  },
};

it.each(Object.entries(LOOPS))(
  '%s',
  async (_, begin) => {
    await containing(async (logged) => {
      let turns = 0;
      const loop = await begin(() => {
        turns += 1;
        if (turns === 1) throw new Error('an error of this turn');
      });
      try {
        await vi.waitFor(
          () => {
            loop.ask?.();
            expect(turns).toBeGreaterThanOrEqual(3);
          },
          { timeout: 20_000, interval: 100 },
        );
        expect(logged).toEqual([loop.undone]);
      } finally {
        await loop.end();
      }
    });
  },
  30_000,
);
