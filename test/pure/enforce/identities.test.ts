/** Identities in packet marks: one container each, and a rest before the next one gets it. */
import { expect, it } from 'vitest';
import { Identities } from '../../../src/enforce/identities.js';
import { UNATTRIBUTED } from '../../../src/ruleset/marks.js';

const REST_MS = 30_000;
const FIRST = UNATTRIBUTED + 1;

it('gives the lowest free one, the same as long as the container is there', () => {
  const ids = new Identities(10);
  expect([ids.assign('a', 0), ids.assign('b', 0), ids.assign('a', 5)]).toEqual([FIRST, FIRST + 1, FIRST]);
  expect([ids.of('b'), ids.of('c')]).toEqual([FIRST + 1, undefined]);
});

it('an identity rests before it is given out again: packets that carry it may still wait', () => {
  const ids = new Identities(10);
  ids.assign('a', 0);
  ids.retain(new Set(), 1000);
  expect(ids.assign('b', 1000)).toBe(FIRST + 1);
  expect(ids.assign('c', 1000 + REST_MS - 1)).toBe(FIRST + 2);
  expect(ids.assign('d', 1000 + REST_MS)).toBe(FIRST);
});

it('the same container does not get its own back either while it rests', () => {
  const ids = new Identities(10);
  ids.assign('a', 0);
  ids.retain(new Set(), 0);
  expect(ids.assign('a', 10)).toBe(FIRST + 1);
});

it('says when all are taken, and counts those that rest', () => {
  const ids = new Identities(FIRST + 1);
  ids.assign('a', 0);
  ids.assign('b', 0);
  expect(() => ids.assign('c', 0)).toThrow(/identities are taken/);
  ids.retain(new Set(['a']), 0);
  expect(() => ids.assign('c', REST_MS - 1)).toThrow(/identities are taken/);
  expect(ids.assign('c', REST_MS)).toBe(FIRST + 1);
});

it('what is adopted from the kernel is given to nobody else, and not taken from another', () => {
  const ids = new Identities(10);
  ids.adopt('a', FIRST);
  ids.adopt('b', FIRST);
  ids.adopt('c', UNATTRIBUTED);
  expect([ids.of('a'), ids.of('b'), ids.of('c')]).toEqual([FIRST, undefined, undefined]);
  expect(ids.assign('b', 0)).toBe(FIRST + 1);
  expect([...ids.born]).toEqual([FIRST + 1]); // connections that carry an adopted one are its own
  ids.settle([FIRST + 1]);
  expect(ids.born.size).toBe(0);
});
