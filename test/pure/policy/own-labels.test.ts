import { describe, expect, it } from 'vitest';
import { ignoredLabels, isOwnLabel, ownLabel } from '../../../src/policy/own-labels.js';

const ID = `sha256:${'1'.repeat(64)}`;
const OTHER = `sha256:${'2'.repeat(64)}`;
const PROJECT = 'com.docker.compose.project';
const SERVICE = 'com.docker.compose.service';
const STACK = 'com.docker.stack.namespace';
const IMAGE = 'com.docker.compose.image';
const HASH = 'com.docker.compose.config-hash';
type Labels = Readonly<Record<string, string>>;

/** The container's own labels over the image's, as Docker merges them; null: the image's are not known. */
const facts = (image: Labels | null, own: Labels, imageId = ID) => ({
  labels: { ...image, ...own },
  imageId,
  ...(image && { imageLabels: image }),
});
const BUILT = { [PROJECT]: 'shop', [SERVICE]: 'db', 'com.docker.compose.version': '2.26.1' };
const owns = (image: Labels | null, own: Labels, imageId?: string): boolean[] =>
  [PROJECT, SERVICE].map((key) => isOwnLabel(facts(image, own, imageId), key));

describe('compose labels', () => {
  it.each<[string, Labels | null, Labels, boolean]>([
    ['given to the container alone', {}, BUILT, true],
    ['other values than the image has', BUILT, { [PROJECT]: 'a', [SERVICE]: 'b' }, true],
    ['as compose creates a container of an image that it has built', BUILT, { ...BUILT, [IMAGE]: ID }, true],
    ['the same after the image was removed', null, { ...BUILT, [IMAGE]: ID }, true],
    ['as compose before 2.0 does, which recorded no image', BUILT, { ...BUILT, [HASH]: 'h' }, true],
    [
      'compose, from an image that docker commit made of a container',
      { ...BUILT, [HASH]: 'h', [IMAGE]: OTHER },
      { ...BUILT, [HASH]: 'h', [IMAGE]: ID },
      true,
    ],
    ["the image's", BUILT, {}, false],
    [
      "the image's, with every label that compose writes",
      { ...BUILT, [HASH]: 'h', [IMAGE]: OTHER },
      {},
      false,
    ],
    ['recorded for another image', BUILT, { [IMAGE]: OTHER, [HASH]: 'h' }, false],
    ['unknown whose', null, BUILT, false],
    ['unknown whose, recorded for another image', null, { ...BUILT, [IMAGE]: OTHER, [HASH]: 'h' }, false],
  ])('%s: %#', (_, image, own, expected) => expect(owns(image, own)).toEqual([expected, expected]));

  it('an id that is no digest proves nothing: an image could say the same', () => {
    for (const id of ['', 'shop-web', 'sha256:1', ID.toUpperCase()])
      expect(owns({ ...BUILT, [IMAGE]: id }, {}, id)).toEqual([false, false]);
  });
  it('one given to the container does not vouch for the other', () => {
    expect(owns(BUILT, { [PROJECT]: 'mine' })).toEqual([true, false]);
  });
  it('compose does not vouch for labels that it does not write', () => {
    const other = 'com.docker.compose.project.environment_file';
    const made = facts({ ...BUILT, [other]: 'x', team: 'ci' }, { [IMAGE]: ID });
    expect([other, 'team', 'drawbridge.allow'].map((key) => isOwnLabel(made, key))).toEqual([
      false,
      false,
      false,
    ]);
  });
});

describe('stack and swarm labels', () => {
  const TASK = { 'com.docker.swarm.task.id': 't1', 'com.docker.swarm.service.name': 'shop_db' };
  const stack = (image: Labels | null, own: Labels): boolean => isOwnLabel(facts(image, own), STACK);
  it.each<[string, Labels | null, Labels, boolean]>([
    ['given to the container alone', {}, { [STACK]: 'shop' }, true],
    ['a task of that stack', { [STACK]: 'shop' }, TASK, true],
    ["a task of another stack, or none: the image's", { [STACK]: 'bank' }, TASK, false],
    ["no task: the image's", { [STACK]: 'shop', ...TASK }, {}, false],
    ['a task whose name only begins alike', { [STACK]: 'sho' }, TASK, false],
    ['unknown whose', null, { [STACK]: 'shop', ...TASK }, false],
  ])('%s', (_, image, own, expected) => expect(stack(image, own)).toBe(expected));

  it("the engine's own labels count for tasks alone", () => {
    const key = 'com.docker.swarm.service.name';
    expect(ownLabel(facts(TASK, { ...TASK, 'com.docker.swarm.task.id': 't2' }), key)).toBe('shop_db');
    expect(ownLabel(facts(TASK, {}), key)).toBeUndefined();
  });
});

it('what is ignored is listed', () => {
  expect(ignoredLabels(facts({ ...BUILT, [STACK]: 's', other: 'x' }, {}))).toEqual([PROJECT, SERVICE, STACK]);
  expect(ignoredLabels(facts({ ...BUILT, [STACK]: 's' }, { [IMAGE]: ID, [STACK]: 'own' }))).toEqual([]);
  expect(ignoredLabels(facts({}, { a: 'b' }))).toEqual([]);
});
