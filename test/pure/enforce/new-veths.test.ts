/** A veth without a container: Docker is asked for the members of its network until it has one. */
import { expect, it } from 'vitest';
import { NewVeths } from '../../../src/enforce/link-events.js';
import type { DockerView, NetworkFacts } from '../../../src/policy/container.js';
import type { HostLink } from '../../../src/ruleset/applied-state.js';

const link = (index: number, name: string, kind: string, master?: number): HostLink => ({
  index,
  name,
  kind,
  mac: '',
  since: 0,
  ...(master === undefined ? {} : { master }),
});
const LINKS = [
  link(1, 'br-app', 'bridge'),
  link(2, 'br-ignored', 'bridge'),
  link(7, 'veth7', 'veth', 1),
  link(8, 'veth8', 'veth', 2),
  link(9, 'veth9', 'veth'),
];
const NETWORKS = new Map(
  ['app', 'ignored', 'other'].map((id) => [id, { id, bridge: `br-${id}` } as unknown as NetworkFacts]),
);

function watch() {
  const asked: string[] = [];
  const warnings: object[] = [];
  const bound = new Set<number>();
  let now = 0;
  let listings = 0;
  let links: readonly HostLink[] | undefined = LINKS;
  const nothing = (): void => undefined;
  const veths = new NewVeths({
    links: async () => {
      listings += 1;
      if (links === undefined) throw new Error('no links');
      return links;
    },
    view: () => ({ networks: NETWORKS }) as unknown as DockerView,
    isManaged: (n) => n.id !== 'ignored',
    ask: async (network) => void asked.push(network),
    isBound: (veth) => bound.has(veth),
    log: { debug: nothing, info: nothing, error: nothing, warn: (o: object) => warnings.push(o) },
    now: () => now,
  });
  /** Resolves when the links were listed that often again. */
  const rounds = async (n: number): Promise<void> => {
    const before = listings;
    await expect.poll(() => listings, { interval: 1 }).toBeGreaterThanOrEqual(before + n);
  };
  /** Nothing is asked any more. */
  const isQuiet = async (): Promise<boolean> => {
    const before = listings;
    await new Promise((done) => setTimeout(done, 250));
    return listings === before;
  };
  return {
    veths,
    asked,
    warnings,
    bound,
    rounds,
    isQuiet,
    pass: (ms: number) => {
      now += ms;
    },
    setLinks: (to: readonly HostLink[] | undefined) => {
      links = to;
    },
  };
}

it('its network is asked for at once and again, until it has a container', async () => {
  const w = watch();
  w.veths.appeared(7);
  await w.rounds(3);
  expect(w.asked.length).toBeGreaterThan(1);
  expect(new Set(w.asked)).toEqual(new Set(['app']));
  w.bound.add(7);
  await w.rounds(1);
  expect(await w.isQuiet()).toBe(true);
});

it('no network is asked for a veth on an ignored bridge, or on none; and none when it has gone', async () => {
  const w = watch();
  w.veths.appeared(8);
  w.veths.appeared(9);
  await w.rounds(2);
  expect(w.asked).toEqual([]);
  w.setLinks([]);
  await w.rounds(1);
  expect(await w.isQuiet()).toBe(true);
});

it('a veth that belongs to no container is given up, and another that appears then is asked for', async () => {
  const w = watch();
  w.veths.appeared(7);
  await w.rounds(1);
  w.pass(2_001);
  await w.rounds(1);
  expect(await w.isQuiet()).toBe(true);
  const before = w.asked.length;
  w.veths.appeared(7);
  await w.rounds(2);
  expect(w.asked.length).toBeGreaterThan(before);
  w.veths.close();
  expect(await w.isQuiet()).toBe(true);
});

it('links that cannot be listed are listed again', async () => {
  const w = watch();
  w.setLinks(undefined);
  w.veths.appeared(7);
  await w.rounds(2);
  expect([w.asked, w.warnings.length > 0]).toEqual([[], true]);
  w.setLinks(LINKS);
  await expect.poll(() => w.asked).toContain('app');
  w.veths.close();
});
