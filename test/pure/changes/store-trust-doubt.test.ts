import { expect, it } from 'vitest';
import { type Doubt, doubtOf, pausesUnderDoubt, underDoubt } from '../../../src/changes/store-trust.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { Mode, Policy } from '../../../src/policy/policy.js';

const facts = (id: string): ContainerFacts =>
  ({ id, name: id, labels: {}, imageLabels: {}, endpoints: [] }) as unknown as ContainerFacts;
const policy = (mode: Mode, kind: 'default' | 'label' | 'api' | 'pause' = 'default'): Policy => ({
  mode,
  modeSource: { kind },
  entries: [],
  lists: [],
  notes: [],
});
const doubt: Doubt = {
  reason: 'the store is another one',
  since: '2026-01-01T00:00:00.000Z',
  revision: 10,
  modes: new Map<string, Mode>([
    ['strict', 'enforce'],
    ['loose', 'observe'],
    ['open', 'off'],
  ]),
  lockdown: undefined,
};
const under = (p: Policy, id: string, revision = 0, d = doubt): string => {
  const { mode, modeSource } = underDoubt(p, d, facts(id), () => revision);
  return `${mode} ${modeSource.kind}`;
};

it('nothing gets looser than the kernel held it', () => {
  expect(under(policy('observe'), 'strict')).toBe('enforce store in doubt');
  expect(under(policy('observe', 'api'), 'strict')).toBe('enforce store in doubt');
  expect(under(policy('off', 'label'), 'loose')).toBe('observe store in doubt');
});

it('what the kernel held as loosely, or loosely itself, stays as its policy says', () => {
  expect(under(policy('observe'), 'loose')).toBe('observe default');
  expect(under(policy('off'), 'open')).toBe('off default');
  expect(under(policy('observe'), 'open')).toBe('observe default');
  expect(under(policy('enforce', 'label'), 'loose')).toBe('enforce label');
});

it('a container that the kernel did not know is enforced, and says why and what to do', () => {
  const { mode, notes } = underDoubt(policy('observe', 'label'), doubt, facts('new'), () => 0);
  expect(mode).toBe('enforce');
  expect(notes).toMatchObject([
    { detail: expect.stringContaining('another one'), remedy: expect.stringContaining('store accept') },
  ]);
});

it('a mode that a person has set since counts, one from before does not', () => {
  expect(under(policy('observe', 'api'), 'strict', 11)).toBe('observe api');
  expect(under(policy('observe', 'api'), 'strict', 10)).toBe('enforce store in doubt');
  expect(under(policy('observe', 'label'), 'strict', 11)).toBe('enforce store in doubt');
  const unknown = { ...doubt, revision: undefined };
  expect(under(policy('observe', 'api'), 'strict', 11, unknown)).toBe('enforce store in doubt');
});

it('pauses from before are not honoured, those since are', () => {
  const pause = (owner: string) => ({ owner, created: '', expires: '', by: '' });
  const of = (key: string): number => (key === 'pause/new' ? 11 : 10);
  expect(pausesUnderDoubt([pause('old'), pause('new')], doubt, of)).toEqual([pause('new')]);
});

it('another store, an older state of it, and one that is not known are in doubt; a later state is not', () => {
  const known = { id: 'a', revision: 5 };
  expect(doubtOf({ id: 'a', revision: 5 }, known)).toBeUndefined();
  expect(doubtOf({ id: 'a', revision: 9 }, known)).toBeUndefined();
  expect(doubtOf({ id: 'a', revision: 4 }, known)).toContain('revision 4');
  expect(doubtOf({ id: 'b', revision: 9 }, known)).toContain('not the one');
  expect(doubtOf({ id: '', revision: 0 }, known)).toContain('does not answer');
});
