import { describe, expect, it } from 'vitest';
import { LearnedSetWriters } from '../../../src/enforce/learned-sets.js';
import type { AnswerSets } from '../../../src/kernel/netlink/answer-sets.js';
import { Current } from '../../../src/lib/current.js';
import { NetnsRules, type NetnsRulesOptions } from '../../../src/namespaces/netns-rules.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';

const until = new Map([['198.51.100.1', 1]]);

/** Of two containers, one has rules in its namespace. */
function rules(): NetnsRules {
  const applied = new Current<AppliedState>();
  applied.set({
    subjects: new Map([
      ['bridged', {}],
      ['lan', { lan: { addresses: [] } }],
    ]),
    desired: {
      sets: new Map([
        ['DB-bridged', { owner: 'bridged' }],
        ['DB-lan', { owner: 'lan' }],
        ['DB-gone', { owner: 'gone' }],
        ['DB-static', {}],
      ]),
    },
  } as unknown as AppliedState);
  return new NetnsRules({ applied } as unknown as NetnsRulesOptions);
}
/** The sets of the kernel, with members or without. */
const kernel = (isWhole: boolean): AnswerSets => ({
  add: async () => {},
  addAll: async () => {},
  remove: async () => {},
  repeated: () => ({ ensure: () => isWhole }),
});

describe('replies with addresses in the sets', () => {
  it.each([
    ['of a bridged container', 'DB-bridged', true],
    ['of a container with rules in its namespace', 'DB-lan', false],
    ['of a container that is gone', 'DB-gone', false],
    ['of nobody', 'DB-static', false],
    ['that no state has', 'DB-unknown', false],
  ])('%s: are sent again is %s', (_, set, isRepeated) => {
    const writers = new LearnedSetWriters(kernel(true));
    writers.also(rules());
    expect(writers.repeated(set, until)?.ensure(0)).toBe(isRepeated || undefined);
  });

  it('leave only if every writer finds them', () => {
    const writers = new LearnedSetWriters(kernel(true));
    writers.also(kernel(false));
    expect(writers.repeated('DB-bridged', until)?.ensure(0)).toBe(false);
  });
});

describe('a state without a container on a macvlan or ipvlan network', () => {
  it('needs nothing while the places are those of the last one, unless something else has changed', async () => {
    let looks = 0;
    const containers = {
      values: () => {
        looks += 1;
        return [];
      },
    };
    const applied = new Current<AppliedState>();
    const at = (places: object): AppliedState =>
      ({ places, view: { containers }, subjects: new Map() }) as unknown as AppliedState;
    const namespaces = new NetnsRules({ applied } as unknown as NetnsRulesOptions);
    const [first, second] = [{}, {}];
    const looksAfter = async (state?: AppliedState): Promise<number> => {
      if (state) applied.set(state);
      await namespaces.applied(state);
      return looks;
    };
    expect(await looksAfter(at(first))).toBe(1);
    expect(await looksAfter(at(first))).toBe(1);
    expect(await looksAfter()).toBe(2);
    expect(await looksAfter(at(first))).toBe(2);
    expect(await looksAfter(at(second))).toBe(3);
    expect(await looksAfter(at(first))).toBe(4);
  });
});
