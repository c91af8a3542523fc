import { describe, expect, it } from 'vitest';
import { bindPorts } from '../../../src/control/bindings.js';
import { ForeignPorts } from '../../../src/control/foreign-ports.js';
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

describe('a port on a bridge that no network has', () => {
  it('is not exempt until a list begun after it was seen knows nothing of it', () => {
    let now = 100;
    const foreign = new ForeignPorts(
      () => now,
      () => undefined,
    );
    const exempt = (v: DockerView, managed = true): readonly number[] =>
      bindPorts(v, LINKS, new Map(), () => managed, foreign.unproven(v, LINKS)).exempt;
    expect(exempt(view(50))).toEqual([]);
    now = 200;
    expect(exempt(view(50))).toEqual([]);
    expect(exempt(view(100))).toEqual([]); // begun in the same moment: proves nothing
    expect(exempt(view(150))).toEqual([3]);
  });

  it("turns out to be Docker's: never exempt, unless the network is ignored", () => {
    let asked = 0;
    const foreign = new ForeignPorts(
      () => 100,
      () => asked++,
    );
    const before = view(50);
    expect(foreign.unproven(before, LINKS)).toEqual(new Set([3]));
    expect(foreign.unproven(before, LINKS)).toEqual(new Set([3]));
    expect(asked).toBe(1);
    const after = view(150, 'docker_gwbridge');
    expect(foreign.unproven(after, LINKS)).toEqual(new Set());
    const ports = bindPorts(after, LINKS, new Map(), () => true, new Set());
    expect([ports.exempt, ports.unbound.map((p) => p.index)]).toEqual([[], [3]]);
    expect(bindPorts(after, LINKS, new Map(), () => false, new Set()).exempt).toEqual([3]);
  });

  it('is seen anew when it went and came back', () => {
    let now = 100;
    const foreign = new ForeignPorts(
      () => now,
      () => undefined,
    );
    foreign.unproven(view(50), LINKS);
    expect(foreign.unproven(view(150), LINKS)).toEqual(new Set());
    foreign.unproven(view(150), []);
    now = 300;
    expect(foreign.unproven(view(150), LINKS)).toEqual(new Set([3]));
  });

  it('is seen anew on another bridge; each port has its own proof', () => {
    let now = 100;
    const foreign = new ForeignPorts(
      () => now,
      () => undefined,
    );
    foreign.unproven(view(50), LINKS);
    now = 300;
    const links = [...LINKS, link(4, 'lxcbr0', 'bridge'), link(5, 'veth2', 'veth', 2)];
    expect(foreign.unproven(view(200), links)).toEqual(new Set([5]));
    const moved = links.map((l) => (l.index === 3 ? link(3, 'veth1', 'veth', 4) : l));
    now = 400;
    expect(foreign.unproven(view(350), moved)).toEqual(new Set([3]));
  });
});
