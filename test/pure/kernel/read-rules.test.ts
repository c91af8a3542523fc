import { describe, expect, it } from 'vitest';
import { Dataplane } from '../../../src/kernel/dataplane.js';
import type { Exec } from '../../../src/kernel/exec.js';
import { compile } from '../../../src/ruleset/compile.js';
import { input, shape } from '../ruleset/sample.js';

const GONE = 'ipset v7.22: Error in line 2: The set with the given name does not exist\n';
const said = (stdout: string) => ({ code: 0, stdout, stderr: '' });
const refused = (stderr: string) => ({ code: 1, stdout: '', stderr });
const listed = (name: string, entries = 1) =>
  `Name: ${name}\nType: hash:ip\nHeader: family inet\nNumber of entries: ${entries}\n`;
const created = (name: string) => `create ${name} hash:ip family inet\n`;

/**
 * A kernel without rules. Each listing returns different sets, and one of another program; `restore` fails as ipset does for a set that was
 * destroyed.
 */
class Sets {
  readonly asked: string[] = [];
  readonly #listings: readonly (readonly string[])[];
  readonly #fault: string;
  readonly #others: number;
  #listing = -1;

  /**
   * @param listings the names at each listing, the last of which stays true
   * @param others how many members the set of another program has
   */
  constructor(listings: readonly (readonly string[])[], fault = GONE, others = 5_001) {
    this.#others = others;
    this.#listings = listings;
    this.#fault = fault;
  }

  readonly run: Exec = async (file, args, options) => {
    if (file !== 'ipset') return said('');
    if (args[0] === 'list') {
      this.#listing += 1;
      const ours = this.#names(this.#listing).map((name) => listed(name));
      return said([...ours, listed('theirs', this.#others)].join('\n'));
    }
    if (args[0] === 'save') {
      this.asked.push('all');
      return said(
        [...this.#names(this.#listing + 1), 'theirs', 'DB-threat-net4', 'DB-record'].map(created).join(''),
      );
    }
    const wanted = [...(options?.input ?? '').matchAll(/^save (\S+)$/gm)].map(([, name = '']) => name);
    this.asked.push(wanted.join(' '));
    const left = this.#names(this.#listing + 1);
    return wanted.every((name) => left.includes(name))
      ? said(wanted.map(created).join(''))
      : refused(this.#fault);
  };

  #names(listing: number): readonly string[] {
    return this.#listings[Math.min(listing, this.#listings.length - 1)] ?? [];
  }
}
const plan = (sets: Sets) => new Dataplane(sets.run, shape, () => undefined).plan(compile(input()));
const destroyed = ({ stages }: Awaited<ReturnType<typeof plan>>): string[] =>
  stages
    .flat()
    .flatMap(({ script }) => [...script.matchAll(/^destroy (\S+)$/gm)].map(([, name = '']) => name));

describe('sets of others', () => {
  it('with few members: all sets are read together, and those that were not listed are left alone', async () => {
    const sets = new Sets(
      [
        ['DB-a', 'DB-b'],
        ['DB-a', 'DB-c'],
      ],
      GONE,
      5_000,
    );
    expect(destroyed(await plan(sets))).toEqual(['DB-a']);
    expect(sets.asked).toEqual(['all']);
  });

  it('with many members, or of an ipset that does not count them: those of Drawbridge are read one by one', async () => {
    for (const others of [5_001, Number.NaN]) {
      const sets = new Sets([['DB-a']], GONE, others);
      expect(destroyed(await plan(sets))).toEqual(['DB-a']);
      expect(sets.asked).toEqual(['DB-a']);
    }
  });
});

describe('a set that vanishes while a plan is made', () => {
  it('between the listing and its turn: both are repeated, and the plan is of what is there', async () => {
    const sets = new Sets([['DB-a', 'DB-b'], ['DB-a']]);
    expect(destroyed(await plan(sets))).toEqual(['DB-a']);
    expect(sets.asked).toEqual(['DB-a DB-b', 'DB-a']);
  });

  it('the last one of all, and two one after the other', async () => {
    expect(destroyed(await plan(new Sets([['DB-a'], []])))).toEqual([]);
    const sets = new Sets([['DB-a', 'DB-b', 'DB-c'], ['DB-a', 'DB-b'], ['DB-a']]);
    expect(destroyed(await plan(sets))).toEqual(['DB-a']);
    expect(sets.asked).toHaveLength(3);
  });

  it('at every listing: it fails after the fifth', async () => {
    const names = ['DB-a', 'DB-b', 'DB-c', 'DB-d', 'DB-e', 'DB-f'];
    const sets = new Sets(names.map((_, gone) => names.slice(gone)));
    await expect(plan(sets)).rejects.toThrow(/^ipset restore: .*does not exist/);
    expect(sets.asked).toHaveLength(5);
  });

  it('another failure is not repeated', async () => {
    const sets = new Sets(
      [['DB-a', 'DB-b'], ['DB-a']],
      'ipset v7.22: Kernel error received: Operation not permitted\n',
    );
    await expect(plan(sets)).rejects.toThrow(/Operation not permitted/);
    expect(sets.asked).toHaveLength(1);
  });
});
