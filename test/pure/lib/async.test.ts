import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Coalescer, eachOf, Newest } from '../../../src/lib/async.js';
import { Repeated, SharedTimer } from '../../../src/lib/clock.js';
import { logContained } from '../../../src/lib/faults.js';
import { KeyedRunner, RetryingRunner } from '../../../src/lib/runners.js';
import { KeyedSerial, Serial } from '../../../src/lib/serial.js';
import { containing } from '../contained-log.js';

function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}
/** A task whose runs end when they are opened. */
function gate() {
  const open: (() => void)[] = [];
  return {
    open,
    openAll: (): void => {
      for (const end of open.splice(0)) end();
    },
    wait: (): Promise<void> => new Promise((resolve) => open.push(resolve)),
  };
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('Coalescer', () => {
  it('gives each caller a run begun after the call, and shares it', async () => {
    const g = gate();
    let runs = 0;
    const c = new Coalescer(async () => {
      runs += 1;
      const mine = runs;
      await g.wait();
      return mine;
    });
    const first = c.run();
    const late = [c.run(), c.run()];
    g.open[0]?.();
    expect(await first).toBe(1);
    await turn();
    const later = c.run();
    g.open[1]?.();
    expect(await Promise.all(late)).toEqual([2, 2]);
    await turn();
    g.open[2]?.();
    expect(await later).toBe(3);
  });
  it('a failure is its own callers’ only', async () => {
    let runs = 0;
    const c = new Coalescer(async () => {
      runs += 1;
      await turn();
      if (runs === 1) throw new Error('first');
      return runs;
    });
    const [a, b] = await Promise.allSettled([c.run(), c.run()]);
    expect([a?.status, b]).toEqual(['rejected', { status: 'fulfilled', value: 2 }]);
  });
});

describe('KeyedRunner', () => {
  it('runs a key once at a time, again when asked meanwhile, and keeps to its width', async () => {
    const g = gate();
    const begun: string[] = [];
    const runner = new KeyedRunner(2, (key) => {
      begun.push(key);
      return g.wait();
    });
    for (const key of ['a', 'b', 'c']) runner.request(key);
    expect(begun).toEqual(['a', 'b']);
    runner.request('a');
    runner.request('a');
    g.open[0]?.();
    await turn();
    expect(begun).toEqual(['a', 'b', 'c']);
    g.open[1]?.();
    g.open[2]?.();
    await turn();
    expect(begun).toEqual(['a', 'b', 'c', 'a']);
  });
});

it('eachOf does all, never more than its width at once', async () => {
  let now = 0;
  let most = 0;
  const done: number[] = [];
  await eachOf([1, 2, 3, 4, 5], 2, async (n) => {
    now += 1;
    most = Math.max(most, now);
    await turn();
    now -= 1;
    done.push(n);
  });
  expect(done).toEqual([1, 2, 3, 4, 5]);
  expect(most).toBe(2);
});

describe('Serial', () => {
  it('runs tasks one at a time in the order of the calls, also after one that failed', async () => {
    const serial = new Serial();
    const log: string[] = [];
    const task = (name: string) => async (): Promise<string> => {
      log.push(`begin ${name}`);
      await turn();
      log.push(`end ${name}`);
      if (name === 'b') throw new Error('b failed');
      return name;
    };
    const [a, b, c] = ['a', 'b', 'c'].map((name) => serial.run(task(name)));
    expect(log).toEqual([]);
    await expect(b).rejects.toThrow('b failed');
    expect([await a, await c]).toEqual(['a', 'c']);
    expect(log).toEqual(['a', 'b', 'c'].flatMap((name) => [`begin ${name}`, `end ${name}`]));
  });
  it('settled waits for what is queued, and does not reject', async () => {
    const serial = new Serial();
    let isDone = false;
    const failed = serial.run(() => Promise.reject(new Error('no')));
    void serial.run(turn).then(() => (isDone = true));
    await Promise.allSettled([failed, serial.settled()]);
    await turn();
    expect(isDone).toBe(true);
    await serial.settled();
  });
});

describe('KeyedSerial', () => {
  it('orders the tasks of one key only', async () => {
    const g = gate();
    const begun: string[] = [];
    const serial = new KeyedSerial();
    const run = (key: string, name: string): Promise<string> =>
      serial.run(key, async () => {
        begun.push(name);
        await g.wait();
        return name;
      });
    const all = Promise.all([run('x', 'x1'), run('x', 'x2'), run('y', 'y1')]);
    await turn();
    expect(begun).toEqual(['x1', 'y1']);
    g.openAll();
    await turn();
    expect(begun).toEqual(['x1', 'y1', 'x2']);
    g.openAll();
    expect(await all).toEqual(['x1', 'x2', 'y1']);
  });
});

describe('RetryingRunner', () => {
  it('repeats a failed run by itself; the same failure is logged once', async () => {
    vi.useFakeTimers();
    try {
      const lines: string[] = [];
      const note = (_: object, message = ''): void => void lines.push(message);
      let runs = 0;
      const runner = new RetryingRunner({
        task: () => (++runs < 3 ? Promise.reject(new Error('full')) : Promise.resolve()),
        log: { debug: note, info: note, warn: note, error: note },
        messages: { failed: 'not done', recovered: 'done again' },
      });
      await expect(runner.run()).rejects.toThrow('full');
      expect(runner.failure).toBe('full');
      await vi.advanceTimersByTimeAsync(1_000);
      expect(runs).toBe(2);
      await vi.advanceTimersByTimeAsync(2_000);
      expect([runs, runner.failure]).toEqual([3, '']);
      expect(lines).toEqual(['not done', 'done again']);
      await runner.stop();
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('Newest', () => {
  it('200 states that arrive while one is worked on: two are kept, and the last is worked on', async () => {
    const { wait, openAll: open } = gate();
    const worked: number[] = [];
    const newest = new Newest<{ n: number }>(async ({ n }) => {
      worked.push(n);
      await wait();
    });
    const refs: WeakRef<object>[] = [];
    const run = (n: number): Promise<void> => {
      const state = { n, large: new Array(1000).fill(n) };
      refs.push(new WeakRef(state));
      return newest.run(state);
    };
    const first = run(0);
    const others = Array.from({ length: 200 }, (_, n) => run(n + 1));
    await turn(); // a WeakRef keeps its target until the job that made it ends
    await vi.waitFor(() => {
      collectGarbage();
      expect(refs.filter((r) => r.deref() !== undefined).length).toBeLessThanOrEqual(2);
    });
    open();
    await first;
    await turn();
    open();
    await Promise.all(others);
    expect(worked).toEqual([0, 200]);
  });

  it('a call while one runs resolves after a run that began later', async () => {
    const { wait, openAll: open } = gate();
    let begun = 0;
    const newest = new Newest<string>(async () => {
      begun += 1;
      await wait();
    });
    const first = newest.run('a');
    let isDone = false;
    const second = newest.run('b').then(() => {
      isDone = true;
    });
    open();
    await first;
    await turn();
    expect([begun, isDone]).toEqual([2, false]);
    open();
    await second;
  });

  it('a run that fails fails for its own callers, and the next one begins', async () => {
    const worked: string[] = [];
    const newest = new Newest<string>(async (value) => {
      await turn();
      worked.push(value);
      if (value === 'bad') throw new Error('bad');
    });
    const bad = newest.run('bad');
    const good = newest.run('good');
    await expect(bad).rejects.toThrow('bad');
    await good;
    await newest.settled();
    expect(worked).toEqual(['bad', 'good']);
  });

  it('settled waits for what waits, too', async () => {
    const worked: string[] = [];
    const newest = new Newest<string>(async (value) => {
      await turn();
      worked.push(value);
    });
    void newest.run('a');
    void newest.run('b');
    await newest.settled();
    expect(worked).toEqual(['a', 'b']);
  });
});

describe('repeated work', () => {
  it('goes on after a turn that throws and one that rejects, and reports both', async () => {
    await containing(async (logged) => {
      let turns = 0;
      await using work = new Repeated('not done', 1, () => {
        turns += 1;
        if (turns === 1) throw new Error('thrown');
        return turns === 2 ? Promise.reject(new Error('rejected')) : undefined;
      });
      work.begin();
      expect(turns).toBe(1);
      await vi.waitFor(() => expect(turns).toBeGreaterThanOrEqual(4), { timeout: 10_000 });
      expect(logged).toEqual(['not done', 'not done']);
    });
  }, 15_000);

  it('has one turn at a time, and its end waits for the one that runs', async () => {
    const { open, wait } = gate();
    let turns = 0;
    const work = new Repeated('not done', 1, async () => {
      turns += 1;
      await wait();
    });
    work.begin();
    let isOver = false;
    const end = work[Symbol.asyncDispose]().then(() => {
      isOver = true;
    });
    await turn();
    expect([turns, isOver, open.length]).toEqual([1, false, 1]);
    open[0]?.();
    await end;
    work.begin(1); // after its end it begins no more
    await vi.waitFor(() => expect(turns).toBe(1));
  });
});

describe('SharedTimer', () => {
  let timer: SharedTimer;
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    timer = new SharedTimer();
  });
  afterEach(() => {
    vi.useRealTimers();
  });
  /** Repeats itself, and notes when it ran. */
  function repeated(ms: number) {
    const ran: number[] = [];
    let next: Disposable;
    const run = (): void => {
      ran.push(performance.now());
      next = timer.next(ms, run);
    };
    next = timer.next(ms, run);
    return { ran, end: () => next[Symbol.dispose]() };
  }

  it('lets work begin together, and never later than a timer of its own would', () => {
    const began = performance.now();
    const first = repeated(400);
    vi.advanceTimersByTime(137);
    const [second, third, fourth] = [repeated(400), repeated(800), repeated(1_000)];
    vi.advanceTimersByTime(4_000);
    for (const { ran, end } of [first, second, third, fourth]) {
      end();
      expect(ran.length).toBeGreaterThan(4);
    }
    expect(first.ran[0]).toBe(began + 400);
    expect(second.ran).toEqual(first.ran);
    for (const [{ ran }, ms] of [[first, 400] as const, [third, 800] as const, [fourth, 800] as const])
      for (const [n, at] of ran.entries()) if (n > 0) expect(at - (ran[n - 1] ?? 0)).toBe(ms);
    for (const at of [...third.ran, ...fourth.ran]) expect(first.ran).toContain(at);
    expect(third.ran[0]).toBeLessThanOrEqual(began + 137 + 800);
  });

  it('has no timer while no work waits', () => {
    const { ran, end } = repeated(400);
    vi.advanceTimersByTime(400);
    expect(vi.getTimerCount()).toBe(1);
    end();
    vi.advanceTimersByTime(400);
    expect([ran.length, vi.getTimerCount()]).toEqual([1, 0]);
    timer.next(400, () => ran.push(0));
    vi.advanceTimersByTime(400);
    expect(ran.length).toBe(2);
  });

  it('runs nothing that was disposed, and the rest after an error', () => {
    const ran: string[] = [];
    const gone = timer.next(400, () => ran.push('gone'));
    timer.next(400, () => {
      throw new Error('one');
    });
    timer.next(400, () => ran.push('two'));
    gone[Symbol.dispose]();
    const said: object[] = [];
    logContained({ error: (facts) => said.push(facts) });
    vi.advanceTimersByTime(500);
    logContained(undefined);
    expect(said).toEqual([{ err: new Error('one') }]);
    expect(ran).toEqual(['two']);
  });
});
