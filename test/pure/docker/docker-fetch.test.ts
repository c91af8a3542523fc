import { expect, it } from 'vitest';
import { type DockerApi, DockerError } from '../../../src/docker/docker-api.js';
import { Fetcher } from '../../../src/docker/docker-fetch.js';
import { DockerState, viewOf } from '../../../src/docker/docker-state.js';
import { ID, listItem } from './samples.js';

const A = ID('a');
const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

/** An engine whose lists are answered when the test says so. */
function slow() {
  const asked: { ids: readonly string[]; answer: (items: object[]) => void; fail: () => void }[] = [];
  const engine = {
    containers: (ids: readonly string[]) =>
      new Promise((resolve, reject) => {
        asked.push({ ids, answer: resolve, fail: () => reject(new Error('no')) });
      }),
    image: async () => ({ Config: { Labels: {} } }),
  };
  return { asked, engine: engine as unknown as DockerApi };
}
function parts() {
  const state = new DockerState();
  const { asked, engine } = slow();
  const given: string[] = [];
  const fetcher: Fetcher = new Fetcher({
    engine,
    state,
    log: quiet,
    now: () => 0,
    publish: (outcome) => fetcher.want(outcome.wants.filter((w) => w.kind === 'list')),
    giveUp: () => given.push('up'),
  });
  const happens = (action: 'create' | 'start'): void =>
    fetcher.want(state.event({ kind: 'container', action, id: A }, 0).wants);
  const view = () => viewOf(state, fetcher.imageLabels, { listings: 0, listBegan: 0, connected: true });
  return { asked, happens, view, given };
}
/** The n-th list that is asked, from 0. */
const nth = <T>(all: readonly T[], n: number): Promise<T> =>
  expect
    .poll(() => all[n], { timeout: 2_000 })
    .toBeDefined()
    .then(() => all[n] as T);

it('who wants a container while a list of it is under way gets a later one', async () => {
  const { asked, happens, view } = parts();
  happens('create');
  const first = await nth(asked, 0);
  happens('start'); // before the first answer
  first.answer([listItem({ State: 'created', NetworkSettings: {}, Ports: [] })]);
  const second = await nth(asked, 1);
  expect(second.ids).toEqual([A]);
  second.answer([listItem()]);
  await expect.poll(() => view().containers.get(A)?.name).toBe('web');
});

it('what was refused is asked again, with what came meanwhile', async () => {
  const { asked, happens, view, given } = parts();
  happens('create');
  (await nth(asked, 0)).fail();
  happens('start');
  const again = await nth(asked, 1);
  expect(again.ids).toEqual([A]);
  again.answer([listItem()]);
  await expect.poll(() => view().containers.get(A)?.name).toBe('web');
  expect(given).toEqual([]);
});

it('an image that the engine leaves without an answer three times has unknown labels: nothing else waits for it', async () => {
  const state = new DockerState();
  let requests = 0;
  const noAnswer = async (): Promise<never> => {
    requests += 1;
    throw new DockerError('/docker.sock', '/images/x/json', new Error('socket hang up'));
  };
  const engine = {
    allContainers: async () => ({ digest: '', value: () => [listItem()] }),
    networks: async () => ({ digest: '', value: () => [] }),
    network: async () => undefined,
    image: noAnswer,
  } as unknown as DockerApi;
  const none = () => undefined;
  const fetcher = new Fetcher({ engine, state, log: quiet, now: () => 0, publish: none, giveUp: none });
  for (let i = 0; i < 2; i++) await expect(fetcher.everything()).rejects.toThrow('socket hang up');
  expect(state.containers.size).toBe(0);
  for (let i = 0; i < 2; i++) await fetcher.everything();
  expect(state.containers.get(A)?.name).toBe('web');
  expect(requests).toBe(4);
});
