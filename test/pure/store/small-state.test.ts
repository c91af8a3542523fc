/** The small state: what it has after an end of the process, damage, a full disk, and an upgrade. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'libsql';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KeptAnswers } from '../../../src/api/idempotency.js';
import { Quotas } from '../../../src/enforce/quotas.js';
import { BY_WEIGHT, EventQueue } from '../../../src/notify/event-queue.js';
import { LastRun } from '../../../src/ops/last-run.js';
import { encodeFrame, HEADER } from '../../../src/store/frame-file.js';
import { SmallState } from '../../../src/store/small-state.js';
import { eventOf, FLOW } from '../notify/events.js';

let dir: string;
let said: string[];
const note = (_: object, message: string): void => void said.push(message);
const log = { debug: note, info: note, warn: note, error: note };
const opened: SmallState[] = [];
/** As the next process does, whether the one before was stopped or killed. */
const open = async (): Promise<SmallState> => {
  const state = await SmallState.open(dir, log);
  opened.push(state);
  return state;
};
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-small-'));
  said = [];
});
afterEach(() => {
  for (const state of opened.splice(0)) state[Symbol.dispose]();
  rmSync(dir, { recursive: true });
});
const FILE = 'small-state.db';
const path = (): string => join(dir, FILE);
const rows = (state: SmallState, area: string): object => Object.fromEntries(state.take(area));

describe('values', () => {
  it('of areas survive a kill and a stop, are taken once, and only root reads them', async () => {
    const first = await open();
    await Promise.all([first.set('a', 'k', 'ä'), first.set('a', 'gone', '1'), first.set('b', 'k', '')]);
    await first.set('a', 'gone', undefined);
    const second = await open();
    expect([...second.areas].sort()).toEqual(['a', 'b']);
    expect([rows(second, 'a'), rows(second, 'a'), rows(second, 'b')]).toEqual([{ k: 'ä' }, {}, { k: '' }]);
    expect(second.areas).toEqual([]);
    void second.set('a', 'k', '2');
    second[Symbol.dispose]();
    expect(rows(await open(), 'a')).toEqual({ k: '2' });
    expect(statSync(path()).mode & 0o777).toBe(0o600);
    expect(said).toEqual([]);
  });

  it('of one turn are one transaction', async () => {
    const state = await open();
    const before = statSync(`${path()}-wal`).size;
    await Promise.all(Array.from({ length: 100 }, (_, n) => state.set('a', String(n), 'x')));
    // A page of rows for each change would be 400 KB.
    expect(statSync(`${path()}-wal`).size - before).toBeLessThan(60_000);
  });

  it('of a fault are written at once', async () => {
    const state = await open();
    void state.set('a', 'k', 'v');
    state.flush();
    expect(rows(await open(), 'a')).toEqual({ k: 'v' });
  });
});

describe('a file that cannot be used', () => {
  const garbage = (text: string): void => writeFileSync(path(), text.repeat(8192));
  const foreign = (sql: string): void => {
    rmSync(path(), { force: true });
    const db = new Database(path());
    db.exec(sql);
    db.close();
  };
  it.each([
    ['no database', () => garbage('x')],
    ['zeros', () => garbage('\0')],
    ['without the table', () => foreign('CREATE TABLE other (a)')],
    ['with other columns', () => foreign('CREATE TABLE small (area, key)')],
    [
      'of a later format',
      () => {
        foreign('CREATE TABLE small (area, key, value)');
        const bytes = readFileSync(path());
        bytes.fill(9, 18, 20);
        writeFileSync(path(), bytes);
      },
    ],
  ])('%s: is renamed, and all begins empty', async (_what, make) => {
    make();
    const content = readFileSync(path());
    const state = await open();
    expect([state.isDamaged, state.fault, said]).toEqual([
      true,
      '',
      [expect.stringContaining('cannot be read')],
    ]);
    expect(readFileSync(`${path()}.unusable`)).toEqual(content);
    await state.set('a', 'k', 'v');
    expect(rows(await open(), 'a')).toEqual({ k: 'v' });
  });

  it('a page of rows that is damaged', async () => {
    const first = await open();
    for (let n = 0; n < 200; n++) void first.set('a', String(n), 'x'.repeat(100));
    first[Symbol.dispose]();
    const bytes = readFileSync(path());
    bytes.fill(0xff, bytes.length - 4096);
    writeFileSync(path(), bytes);
    const state = await open();
    expect([state.isDamaged, state.areas]).toEqual([true, []]);
    await state.set('a', 'k', 'v');
    expect(rows(await open(), 'a')).toEqual({ k: 'v' });
  });

  it('a text that is not UTF-8 costs its row', async () => {
    const first = await open();
    void first.set('a', 'good', 'x');
    void first.set('a', 'bad', 'ABCDEF');
    first[Symbol.dispose]();
    const bytes = readFileSync(path());
    bytes[bytes.indexOf('ABCDEF') + 2] = 0xff;
    writeFileSync(path(), bytes);
    expect(rows(await open(), 'a')).toEqual({ good: 'x' });
    expect(said).toEqual([expect.stringContaining('a row of the small state is damaged')]);
  });
});

it('a file that cannot be opened is said, and changes are in memory', async () => {
  const state = await SmallState.open(join(dir, 'missing'), log);
  await state.set('a', 'k', 'v');
  state[Symbol.dispose]();
  expect([state.fault, said]).toEqual([
    expect.stringContaining('ENOENT'),
    [expect.stringContaining('cannot be written')],
  ]);
});

describe('a file of an earlier version is read once and removed:', () => {
  const write = (name: string, content: string | Buffer): void => writeFileSync(join(dir, name), content);
  const isTakenOver = async (name: string): Promise<void> => {
    expect(existsSync(join(dir, name))).toBe(false);
    expect(readdirSync(dir).filter((other) => !other.startsWith(FILE))).toEqual([]);
  };
  /** As the first start finds it, and as the second one does. */
  const starts = async (see: (state: SmallState) => void): Promise<void> => {
    see(await open());
    see(await open());
  };

  it('quotas.json', async () => {
    const name = `q-0123456789ab-24-${Math.floor(Date.now() / 3_600_000)}`;
    write('quotas.json', JSON.stringify({ version: 1, used: { [name]: 5 } }));
    await starts((small) => {
      const kernel = { usedQuotas: async () => new Map() };
      const quotas = new Quotas({ small, kernel, applied: { value: undefined }, log, now: Date.now });
      const subject = { limits: { quota: { name } } } as unknown as Parameters<Quotas['usedOf']>[0];
      expect(quotas.usedOf(subject)).toBe(5);
    });
    await isTakenOver('quotas.json');
  });

  it('running.json', async () => {
    write('running.json', '{"started":"2026-01-01T00:00:00Z","boot":"other"}');
    const state = await open();
    expect(new LastRun(state, log).ended).toMatch(/^the host was started again or lost power, .*2026-01-01/);
    expect(new LastRun(await open(), log).ended).toMatch(/^it was killed/);
    await isTakenOver('running.json');
  });

  it('idempotency.log', async () => {
    const at = Date.now();
    const of = (id: string, state: unknown) => ({ id, who: 'w', print: 'p', at, isSecret: false, state });
    const answer = { status: 201, headers: {}, body: '{}' };
    const lines = [of('a', 'running'), of('a', answer), of('b', answer), { id: 'b' }, of('c', 'running')];
    write('idempotency.log', `${lines.map((line) => JSON.stringify(line)).join('\n')}\n{"id":"half`);
    await starts((small) => {
      const kept = new KeptAnswers(() => at, small);
      expect(['a', 'b', 'c'].map((id) => kept.find(id)?.state)).toEqual([answer, undefined, 'lost']);
    });
    await isTakenOver('idempotency.log');
  });

  const event = (port: number) => eventOf('flow', { ...FLOW, port });
  const frame = (...frame: readonly unknown[]): Buffer => encodeFrame(JSON.stringify(frame));
  const queueOf = (small: SmallState): unknown => {
    const queue = new EventQueue(BY_WEIGHT, small, 'outbox x-1');
    return [queue.events.map(({ data }) => ('port' in data ? data.port : 0)), queue.head];
  };
  it('the outbox of a receiver', async () => {
    const events = [1, 2, 3, 4, 5].map((n) => frame('e', n, event(n)));
    const rest = [frame('b', 1), frame('d', 1), frame('x', 4), frame('b', 3)];
    write('notify-x-1.outbox', Buffer.concat([HEADER, ...events, ...rest]));
    await starts((small) => expect(queueOf(small)).toEqual([[2, 3, 5], 2]));
    await isTakenOver('notify-x-1.outbox');
  });

  it('a damaged one is kept, with what is readable of it', async () => {
    const damaged = frame('e', 2, event(2));
    damaged[40] = (damaged[40] ?? 0) ^ 0xff;
    write(
      'notify-x-1.outbox',
      Buffer.concat([HEADER, frame('e', 1, event(1)), damaged, frame('e', 3, event(3))]),
    );
    write('quotas.json', '{"used":');
    await starts((small) => expect(queueOf(small)).toEqual([[1], 0]));
    expect(
      readdirSync(dir)
        .filter((name) => !name.startsWith(FILE))
        .sort(),
    ).toEqual(['notify-x-1.outbox.damaged', 'quotas.json.damaged']);
  });

  it('stays when it cannot be taken over', async () => {
    mkdirSync(path());
    write('quotas.json', JSON.stringify({ used: { a: 1 } }));
    expect(rows(await open(), 'quotas')).toEqual({ a: '1' });
    expect(existsSync(join(dir, 'quotas.json'))).toBe(true);
  });
});
