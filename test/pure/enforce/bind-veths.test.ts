/** Which veth is bound to which container: only by what Docker said after the veth appeared, and never by a guess. */
import { describe, expect, it } from 'vitest';
import { bindPorts } from '../../../src/enforce/bind-veths.js';
import type { ContainerFacts, DockerView, Endpoint, NetworkFacts } from '../../../src/policy/container.js';
import type { Binding, HostLink } from '../../../src/ruleset/applied-state.js';

const MAC = '02:42:ac:1e:00:07';
const OTHER_MAC = '02:42:ac:1e:00:08';
const BRIDGE: HostLink = { index: 2, name: 'br-net', kind: 'bridge', mac: '02:42:00:00:00:01', since: 0 };
const veth = (index: number, since: number, peerMac = MAC, more: Partial<HostLink> = {}): HostLink => ({
  index,
  name: `veth${index}`,
  kind: 'veth',
  master: 2,
  mac: '0a:00:00:00:00:01',
  since,
  peerMac,
  ...more,
});
const holder = (id: string, askedAt: number | undefined, more: Partial<Endpoint> = {}): ContainerFacts =>
  ({
    id,
    state: 'running',
    endpoints: [
      {
        networkId: 'net',
        mac: MAC,
        ip4: '172.30.0.7',
        ip6: 'fd00::7',
        dnsNames: [],
        ...(askedAt === undefined ? {} : { askedAt }),
        ...more,
      },
    ],
  }) as unknown as ContainerFacts;
const viewOf = (...containers: ContainerFacts[]): DockerView =>
  ({
    containers: new Map(containers.map((c) => [c.id, c])),
    networks: new Map([['net', { id: 'net', bridge: 'br-net' } as unknown as NetworkFacts]]),
    starting: new Set(),
    attached: new Set(),
  }) as unknown as DockerView;
const bound = (
  view: DockerView,
  veths: readonly HostLink[],
  before: ReadonlyMap<number, Binding> = new Map(),
) => {
  const ports = bindPorts(view, [BRIDGE, ...veths], before, () => true);
  return {
    to: Object.fromEntries([...ports.bindings].map(([port, b]) => [port, b.container])),
    unbound: ports.unbound.map((p) => p.index),
    outdated: [...ports.outdated],
    bindings: ports.bindings,
  };
};

describe('a veth that has just appeared', () => {
  it('is bound to the endpoint with its MAC that Docker was asked for afterwards', () => {
    expect(bound(viewOf(holder('a', 150)), [veth(7, 100)])).toMatchObject({
      to: { 7: 'a' },
      unbound: [],
      outdated: [],
    });
  });

  it('is not bound by what was asked for before, in the same moment, or nobody knows when: it may be the successor’s', () => {
    for (const askedAt of [50, 100, undefined])
      expect(bound(viewOf(holder('gone', askedAt)), [veth(7, 100)]), `${askedAt}`).toMatchObject({
        to: {},
        unbound: [7],
        outdated: ['net'],
      });
  });

  it('asks no network again where nothing fits', () => {
    expect(bound(viewOf(holder('a', 50, { mac: OTHER_MAC })), [veth(7, 100)]).outdated).toEqual([]);
  });

  it('is not bound by a MAC that two free containers or two free veths have', () => {
    expect(bound(viewOf(holder('a', 150), holder('b', 150)), [veth(7, 100)]).to).toEqual({});
    expect(bound(viewOf(holder('a', 150)), [veth(7, 100), veth(8, 100)]).to).toEqual({});
    // nor by the one of two about which more is known
    expect(bound(viewOf(holder('a', 150), holder('gone', 50)), [veth(7, 100)]).to).toEqual({});
  });

  it('is not bound by an endpoint of another network, nor without a MAC', () => {
    expect(bound(viewOf(holder('a', 150, { networkId: 'other' })), [veth(7, 100)]).to).toEqual({});
    const { peerMac: _, ...unknown } = veth(7, 100);
    expect(bound(viewOf(holder('a', 150)), [unknown]).to).toEqual({});
  });
});

describe('a veth that is bound', () => {
  const { bindings } = bound(viewOf(holder('a', 150)), [veth(7, 100)]);

  it('stays bound while both exist, whatever MAC the container gives itself and however old the view is', () => {
    expect(bound(viewOf(holder('a', 50)), [veth(7, 100, OTHER_MAC)], bindings).to).toEqual({ 7: 'a' });
  });

  it('has no rivals: the next veth with the same MAC is the other container’s', () => {
    const view = viewOf(holder('a', 150), holder('b', 250));
    expect(bound(view, [veth(7, 100), veth(8, 200)], bindings).to).toEqual({ 7: 'a', 8: 'b' });
  });

  it('leaves nothing behind: when it has gone, its endpoint binds no later veth until Docker is asked again', () => {
    const view = viewOf(holder('a', 150));
    expect(bound(view, [veth(8, 200)], bindings)).toMatchObject({ to: {}, unbound: [8], outdated: ['net'] });
    expect(bound(viewOf(holder('a', 250)), [veth(8, 200)], bindings).to).toEqual({ 8: 'a' });
  });

  it('ends with its endpoint, and when the endpoint has another MAC', () => {
    expect(bound(viewOf(), [veth(7, 100)], bindings).to).toEqual({});
    expect(bound(viewOf(holder('a', 50, { mac: OTHER_MAC })), [veth(7, 100)], bindings).to).toEqual({});
  });
});
