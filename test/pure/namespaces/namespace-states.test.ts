import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  NAMESPACE_EVENTS,
  NAMESPACE_STATES,
  type NamespaceEvent,
  type NamespaceState,
  nextState,
} from '../../../src/namespaces/namespace-states.js';

const STATES = Object.keys(NAMESPACE_STATES) as NamespaceState[];
const EVENTS = Object.keys(NAMESPACE_EVENTS) as NamespaceEvent[];

/** The rows of the table in docs/kernel.md that begins with this head. */
function tableOf(head: string): readonly string[] {
  const lines = readFileSync(new URL('../../../docs/kernel.md', import.meta.url), 'utf8').split('\n');
  const rows = lines.slice(lines.indexOf(head) + 2);
  return rows.slice(0, rows.indexOf(''));
}

describe('the states of a namespace', () => {
  it('are those of docs/kernel.md', () => {
    const states = Object.entries(NAMESPACE_STATES).map(
      ([state, meaning]) => `| \`${state}\` | ${meaning} |`,
    );
    expect(tableOf('| state | meaning |')).toEqual(states);
    const events = Object.entries(NAMESPACE_EVENTS).map(
      ([event, { when, from, to, does }]) =>
        `| \`${event}\` | ${when} | ${from.join(', ')} | ${to} | ${does} |`,
    );
    expect(tableOf('| event | when | from | to | what is done |')).toEqual(events);
  });

  it('are all reached from the first one, and all but an unfinished one can end', () => {
    const reached = new Set<NamespaceState>(['unknown']);
    for (const state of reached)
      for (const event of EVENTS) {
        const next = nextState(state, event);
        if (next !== undefined) reached.add(next);
      }
    expect([...reached].sort()).toEqual([...STATES].sort());
    expect(STATES.filter((state) => nextState(state, 'ended') === undefined)).toEqual(['attaching', 'gone']);
  });

  it('change by no event once it is gone', () => {
    expect(EVENTS.filter((event) => nextState('gone', event) !== undefined)).toEqual([]);
  });
});
