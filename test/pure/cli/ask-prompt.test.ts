/** Which keys count for which request: none that was pressed before a person could read what is shown. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AskBody } from '../../../src/api/ask-routes.js';
import { Prompt } from '../../../src/cli/ask-prompt.js';
import { ask } from '../api/double.js';

const one = (id: string, container = 'web', more: Partial<AskBody> = {}): AskBody =>
  ask({ id, token: `token of ${id}`, container, containerId: `id of ${container}`, ...more });

/** A person in front of a prompt. What counts is decided at once, and the next request is shown. */
function person(asks: AskBody[], now = 0) {
  const prompt = new Prompt();
  let left = [...asks];
  const decided: string[] = [];
  const update = (): boolean => prompt.update(left, now);
  const pass = (ms: number): void => {
    for (const until = now + ms; now < until; now += 10) {
      const taken = prompt.take(now);
      if (!taken) continue;
      decided.push(`${taken.key} ${taken.ask.id}`);
      left = left.filter(({ id }) => id !== taken.ask.id);
      update();
    }
  };
  update();
  return {
    prompt,
    decided,
    pass,
    press: (keys: string) => {
      for (const key of keys) prompt.press(key, now);
    },
    become: (next: AskBody[]) => {
      left = next;
      return update();
    },
  };
}

describe('a key', () => {
  it('counts for what was shown for 700 ms', () => {
    const { decided, press, pass } = person([one('1'), one('2')]);
    pass(700);
    press('a');
    pass(200);
    expect(decided).toEqual(['a 1']);
  });

  it('does not count when it comes earlier, however often', () => {
    const { decided, press, pass } = person([one('1')]);
    press('a');
    pass(690);
    press('a');
    pass(2_000);
    expect(decided).toEqual([]);
    press('d');
    pass(200);
    expect(decided).toEqual(['d 1']);
  });

  it.each([0, 10, 100])('twice within %i ms decides nothing', (gap) => {
    const { decided, press, pass } = person([one('1'), one('2')]);
    pass(1_000);
    press('a');
    pass(gap);
    press('a');
    pass(3_000);
    expect(decided).toEqual([]);
  });

  it.each([200, 400, 690])('twice within %i ms decides about the first request alone', (gap) => {
    const { decided, press, pass } = person([one('1'), one('2')]);
    pass(1_000);
    press('a');
    pass(gap);
    press('a');
    pass(3_000);
    expect(decided).toEqual(['a 1']);
  });

  it.each([
    [250, 30],
    [660, 40],
    [1_800, 90],
    [1_000, 140],
  ])('that is held decides once: it repeats after %i ms, then every %i ms', (first, every) => {
    const { decided, press, pass } = person(['1', '2', '3'].map((id) => one(id)));
    pass(1_000);
    press('a');
    pass(first);
    for (let n = 0; n < 200; n++) {
      press('a');
      pass(every);
    }
    pass(1_000);
    expect(decided).toEqual(['a 1']);
    press('a');
    pass(1_000);
    expect(decided).toEqual(['a 1', 'a 2']);
  });

  it('of several bytes, such as an arrow, is none', () => {
    const { decided, press, pass } = person([one('1')]);
    pass(1_000);
    press('\u001bOa');
    pass(1_000);
    expect(decided).toEqual([]);
  });

  it('decides about what was on the screen when it was pressed', () => {
    const { prompt, become, press, pass } = person([one('1'), one('2')]);
    pass(1_000);
    press('a');
    become([one('2')]);
    expect(prompt.take(1_150)).toMatchObject({ key: 'a', ask: { id: '1' } });
    expect(prompt.shown?.id).toBe('2');
  });

  it('never counts for a request that was not shown for 700 ms without a key', () => {
    const steps = fc.array(fc.record({ keys: fc.constantFrom('', 'a', 'a', 'aa', 'd'), ms: fc.nat(1_200) }), {
      maxLength: 40,
    });
    fc.assert(
      fc.property(steps, (all) => {
        const prompt = new Prompt();
        let left = Array.from({ length: 20 }, (_, n) => one(`${n}`));
        let [now, shownAt, keyAt] = [0, 0, Number.NEGATIVE_INFINITY];
        let pressed: { readonly id: string | undefined; readonly mayCount: boolean } | undefined;
        prompt.update(left, 0);
        for (const { keys, ms } of all) {
          for (const key of keys) {
            const mayCount = now - shownAt >= 700 && now - keyAt >= 700;
            pressed = { id: prompt.shown?.id, mayCount };
            keyAt = now;
            prompt.press(key, now);
          }
          now += ms;
          const taken = prompt.take(now);
          if (!taken) continue;
          expect(pressed).toEqual({ id: taken.ask.id, mayCount: true });
          left = left.filter(({ id }) => id !== taken.ask.id);
          if (prompt.update(left, now)) shownAt = now;
        }
      }),
    );
  });
});

describe('a request', () => {
  it('stays while others come, and while its own wait goes on', () => {
    const { prompt, become } = person([one('1')]);
    expect(become([one('0', 'other', { until: '2029-01-01T00:00:00.000Z' }), one('1'), one('2')])).toBe(
      false,
    );
    expect(become([one('1', 'web', { waiting: 2, attempts: 2 })])).toBe(false);
    expect(prompt.shown).toMatchObject({ id: '1', attempts: 2 });
  });

  it('gives way when its wait has ended and another waits, and is read again when it has changed', () => {
    const over = one('1', 'web', { until: null });
    const { prompt, become } = person([one('1')]);
    expect(become([over])).toBe(false);
    expect(become([over, one('2')])).toBe(true);
    expect(prompt.shown?.id).toBe('2');
    expect(become([over, one('2', 'web', { token: 'another' })])).toBe(true);
    expect(prompt.readyAt(0)).toBe(700);
  });

  it('of one container comes after one of another: they take turns, the oldest first', () => {
    const flood = Array.from({ length: 50 }, (_, n) => one(`f${n}`, 'flooder'));
    const { decided, press, pass, prompt } = person([...flood, one('w1'), one('w2')]);
    expect(prompt.others.filter(({ container }) => container === 'web')).toHaveLength(2);
    for (let n = 0; n < 5; n++) {
      pass(1_000);
      press('d');
      pass(1_000);
    }
    expect(decided).toEqual(['d f0', 'd w1', 'd f1', 'd w2', 'd f2']);
  });

  it('that is skipped comes again only when it is another', () => {
    const { prompt, become } = person([one('1'), one('2')]);
    prompt.skip(one('1'));
    expect(become([one('1'), one('2')])).toBe(true);
    expect(prompt.shown?.id).toBe('2');
    become([one('1')]);
    expect(prompt.shown).toBeUndefined();
    become([one('1', 'web', { token: 'another' })]);
    expect(prompt.shown?.id).toBe('1');
  });
});
