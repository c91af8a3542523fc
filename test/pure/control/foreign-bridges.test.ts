import { describe, expect, it } from 'vitest';
import { bindPorts } from '../../../src/control/bindings.js';
import { ForeignBridges } from '../../../src/control/foreign-bridges.js';
import type { DockerView, NetworkFacts } from '../../../src/model/container.js';
import type { HostLink } from '../../../src/ports.js';

const link = (index: number, name: string, kind: string, master?: number): HostLink => ({
  index,
  name,
  kind,
  mac: '02:00:00:00:00:01',
  ...(master ? { master } : {}),
});
const network = (bridge: string): NetworkFacts => ({
  id: bridge,
  name: bridge,
  driver: 'bridge',
  scope: 'local',
  bridge,
  internal: false,
  ipv6: false,
  subnets: [],
  gateways: [],
  labels: {},
  options: {},
});
const view = (listBegan: number, ...bridges: string[]): DockerView => ({
  containers: new Map(),
  networks: new Map(bridges.map((b) => [b, network(b)])),
  listings: 1,
  listBegan,
  starting: new Set(),
  connected: true,
});
const LINKS = [link(1, 'eth0', ''), link(2, 'docker_gwbridge', 'bridge'), link(3, 'veth1', 'veth', 2)];

describe('a bridge that no network has', () => {
  it('is not exempt until a list begun after it was seen knows nothing of it', () => {
    let now = 100;
    const foreign = new ForeignBridges(() => now);
    const exempt = (v: DockerView, managed = true): readonly number[] =>
      bindPorts(v, LINKS, new Map(), () => managed, foreign.unproven(v, LINKS)).exempt;
    expect(exempt(view(50))).toEqual([]);
    now = 200;
    expect(exempt(view(50))).toEqual([]);
    expect(exempt(view(100))).toEqual([]); // begun in the same moment: proves nothing
    expect(exempt(view(150))).toEqual([3]);
  });

  it("turns out to be Docker's: never exempt, unless the network is ignored", () => {
    const foreign = new ForeignBridges(() => 100);
    const before = view(50);
    expect(foreign.unproven(before, LINKS)).toEqual(new Set([2]));
    const after = view(150, 'docker_gwbridge');
    expect(foreign.unproven(after, LINKS)).toEqual(new Set());
    const ports = bindPorts(after, LINKS, new Map(), () => true, new Set());
    expect([ports.exempt, ports.unbound.map((p) => p.index)]).toEqual([[], [3]]);
    expect(bindPorts(after, LINKS, new Map(), () => false, new Set()).exempt).toEqual([3]);
  });

  it('is seen anew when it went and came back', () => {
    let now = 100;
    const foreign = new ForeignBridges(() => now);
    foreign.unproven(view(50), LINKS);
    expect(foreign.unproven(view(150), LINKS)).toEqual(new Set());
    foreign.unproven(view(150), []);
    now = 300;
    expect(foreign.unproven(view(150), LINKS)).toEqual(new Set([2]));
  });
});
