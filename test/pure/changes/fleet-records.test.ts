import { expect, it } from 'vitest';
import { AppliedRevision } from '../../../src/changes/current-overrides.js';
import { nodeRecord, nodeView, STALE_MS } from '../../../src/changes/fleet.js';
import { isForHost } from '../../../src/policy/policy.js';

const record = {
  version: '0.1.0',
  instance: 'x',
  revision: 7,
  inSync: true,
  containers: 4,
  enforced: 3,
  observed: 1,
  partial: 0,
  unenforced: 0,
};
const NOW = Date.parse('2030-01-01T00:01:00Z');

it('a host is ok, out of sync, or stale when it has been silent', () => {
  expect(nodeView('a', record, 1000, NOW)).toMatchObject({
    state: 'ok',
    lastSeen: '2030-01-01T00:00:59.000Z',
    revision: 7,
  });
  expect(nodeView('a', { ...record, inSync: false }, 1000, NOW).state).toBe('out of sync');
  expect(nodeView('a', record, STALE_MS, NOW).state).toBe('ok');
  expect(nodeView('a', { ...record, inSync: false }, STALE_MS + 1, NOW).state).toBe('stale');
  expect(Object.keys(nodeView('a', record, 0, NOW))).not.toContain('instance');
});

it('what another version wrote is read, or left out', () => {
  expect(nodeRecord({ ...record, more: 1 })).toEqual(record);
  expect(nodeRecord({ ...record, fullyEnforced: 2 })).toEqual({ ...record, fullyEnforced: 2 });
  expect(nodeView('a', record, 0, NOW).fullyEnforced).toBeNull();
  expect(nodeView('a', { ...record, fullyEnforced: 2 }, 0, NOW).fullyEnforced).toBe(2);
  for (const broken of [null, [], 'x', { ...record, revision: '7' }, { ...record, inSync: undefined }])
    expect(nodeRecord(broken)).toBeUndefined();
});

it('a list without hosts counts everywhere, one with hosts where a glob fits', () => {
  expect(isForHost({}, undefined)).toBe(true);
  expect(isForHost({ hosts: ['web-*', 'db'] }, 'web-1')).toBe(true);
  expect(isForHost({ hosts: ['web-*', 'db'] }, 'db')).toBe(true);
  expect(isForHost({ hosts: ['web-*', 'db'] }, 'db-1')).toBe(false);
  expect(isForHost({ hosts: ['*'] }, undefined)).toBe(false);
});

it('a revision is applied when a pass that has read it has held', () => {
  let revision = 5;
  const applied = new AppliedRevision(() => revision);
  applied.changed();
  expect(applied.value).toBe(0);
  applied.read();
  revision = 6;
  applied.changed();
  applied.applied();
  expect(applied.value).toBe(5);
  applied.read();
  applied.applied();
  expect(applied.value).toBe(6);
  revision = 7;
  expect(applied.value).toBe(7);
});
