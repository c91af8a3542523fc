/** Bounds of the names of connections that are remembered. */
import { expect, it } from 'vitest';
import { keyOfEnds, VerifiedNames } from '../../../src/connections/verified-names.js';
import type { Flow } from '../../../src/ruleset/flow.js';

const made = (): VerifiedNames =>
  new VerifiedNames({
    marks: {},
    dns: { learnedNames: () => [], keys: { of: () => undefined } },
    threats: { blockedName: () => undefined },
  });
const keyOf = (sourcePort: number): string =>
  keyOfEnds({ proto: 'tcp', source: '10.0.0.2', sourcePort, address: '192.0.2.1', port: 80 });
const flowOf = (sport: number): Flow =>
  ({ proto: 6, orig: { src: '10.0.0.2', sport, dst: '192.0.2.1', dport: 80 } }) as Flow;

it('forgets the connection that was used least recently', () => {
  const names = made();
  names.note(keyOf(1), 'a.example', true);
  names.note(keyOf(2), 'a.example', true);
  for (let port = 1_000; port < 11_000; port++) names.note(keyOf(port), 'a.example', true);
  names.note(keyOf(1), 'a.example', false);
  for (let port = 11_000; port < 21_000; port++) names.note(keyOf(port), 'a.example', true);
  expect([1, 2, 1_000, 20_999].map((port) => names.knows(flowOf(port)))).toEqual([true, false, false, true]);
});
