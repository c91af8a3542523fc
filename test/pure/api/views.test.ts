import { expect, it } from 'vitest';
import { census, nodeCensus } from '../../../src/api/views.js';
import type { Finding } from '../../../src/policy/finding.js';
import type { Mode } from '../../../src/policy/policy.js';

const counted = (mode: Mode, state: Finding['state'], ...codes: string[]) => ({
  mode,
  coverage: { state, reasons: [] },
  findings: codes.map((code) => ({ code, state, detail: '', remedy: '' })),
});

it('a container in mode enforce is enforced, whatever its coverage, which is counted apart', () => {
  const all = [
    counted('enforce', 'enforced'),
    ...Array.from({ length: 5 }, () => counted('enforce', 'partial', 'host-asked-names')),
    counted('enforce', 'unenforced', 'privileged'),
    counted('observe', 'partial', 'missing-list', 'missing-list'),
    counted('off', 'unenforced', 'broken-label'),
  ];
  expect(census(all)).toEqual({
    containers: 9,
    enforced: 7,
    observed: 1,
    off: 1,
    coverage: { enforced: 1, partial: 5, unenforced: 1 },
    labelErrors: 1,
    missingLists: 1,
  });
  expect(nodeCensus(all)).toEqual({
    containers: 9,
    enforced: 7,
    fullyEnforced: 1,
    observed: 1,
    partial: 6,
    unenforced: 2,
  });
});
