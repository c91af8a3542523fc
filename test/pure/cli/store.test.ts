import { appendFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
});
afterEach(() => bench.end());

const readable = {
  source: 'previous',
  identity: 'one',
  revision: 7,
  items: 3,
  isComplete: false,
  missing: ['x.log ends early'],
} as const;

describe('store', () => {
  it('check says what is wrong, what can be restored and how, and exits 1', async () => {
    bench.host = {
      inspectStore: async () => ({
        isGood: false,
        isNewer: false,
        recoverable: [readable],
        problems: ['a is damaged'],
      }),
    };
    const ran = await bench.run('store', 'check');
    expect(ran.code).toBe(1);
    expect(ran.out).toMatch(
      /^a is damaged\n.*previous, revision 7, 3 items; what is lost: x\.log ends early/,
    );
    expect(ran.out).toContain('drawbridge store restore --previous --yes');
    bench.host = {
      inspectStore: async () => ({ isGood: true, isNewer: false, recoverable: [], problems: [] }),
    };
    expect(await bench.run('store', 'check')).toMatchObject({ code: 0, out: 'the store can be read\n' });
  });

  it('of a newer version only that version is the remedy', async () => {
    bench.host = {
      inspectStore: async () => ({
        isGood: false,
        isNewer: true,
        recoverable: [readable],
        problems: ['a is newer'],
      }),
    };
    const { out } = await bench.run('store', 'check');
    expect(out).toContain('the version of drawbridge that wrote it');
    expect(out).not.toContain('start-empty');
  });

  it('restore, start-empty and accept do nothing without --yes', async () => {
    await bench.serve();
    for (const what of ['restore', 'start-empty', 'accept'])
      expect(await bench.run('store', what)).toMatchObject({
        code: 1,
        err: expect.stringContaining('nothing was done'),
      });
    expect(bench.controller.accepted).toEqual([]);
  });

  it('restore and start-empty are recorded before they are done; one that fails once more, as refused', async () => {
    const records: string[] = [];
    bench.host = {
      recordAlone: async (_config, { action, outcome, after }) => {
        records.push(`${action} ${outcome} ${JSON.stringify(after)}`);
        return undefined;
      },
      restoreStore: async () => {
        records.push('restored');
        return { restored: readable, setAside: [] };
      },
      beginEmptyStore: async () => Promise.reject(new Error('in use')),
    };
    expect((await bench.run('store', 'restore', '--previous', '--yes')).code).toBe(0);
    expect((await bench.run('store', 'start-empty', '--yes')).code).toBe(1);
    expect(records).toEqual([
      'store.restore done {"source":"previous"}',
      'restored',
      'store.start-empty done null',
      'store.start-empty refused null',
    ]);
  });

  it('restore names what was lost and what was set aside', async () => {
    const asked: string[] = [];
    bench.host = {
      restoreStore: async (_, source) => {
        asked.push(source);
        return { restored: readable, setAside: ['/s/store.log.damaged-1'] };
      },
      beginEmptyStore: async () => ['/s/store.log.damaged-2'],
    };
    const ran = await bench.run('store', 'restore', '--previous', '--yes');
    expect([ran.code, asked]).toEqual([0, ['previous']]);
    expect(ran.out).toMatch(/restored revision 7, 3 items\nlost: x\.log ends early\nset aside: .*damaged-1/);
    expect((await bench.run('store', 'start-empty', '--yes')).out).toMatch(
      /empty store\nset aside: .*damaged-2/,
    );
  });

  it('accept asks the service', async () => {
    await bench.serve();
    expect((await bench.run('store', 'accept', '--yes')).code).toBe(0);
    expect(bench.controller.accepted).toEqual(['local:ann']);
  });

  it('files are not touched where the store is on Redis', async () => {
    await appendFile(bench.config, 'store: { redis: "redis://127.0.0.1:1" }\n');
    expect(await bench.run('store', 'start-empty', '--yes')).toMatchObject({
      code: 1,
      err: expect.stringContaining('on Redis'),
    });
  });
});
