import { describe, expect, it } from 'vitest';
import { bindPorts } from '../../../src/enforce/bind-veths.js';
import { ForeignBridges } from '../../../src/enforce/foreign-bridges.js';
import type { DockerView, NetworkFacts } from '../../../src/policy/container.js';
import type { HostLink } from '../../../src/ruleset/applied-state.js';

const link = (index: number, name: string, kind: string, master?: number, since = 100): HostLink => ({
  index,
  name,
  kind,
  mac: '02:00:00:00:00:01',
  since,
  ...(master ? { master } : {}),
});
const network = (bridge: string, askedAt: number): NetworkFacts => ({
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
  askedAt,
});
const view = (listBegan: number, ...bridges: string[]): DockerView => ({
  content: {},
  containers: new Map(),
  networks: new Map(bridges.map((b) => [b, network(b, listBegan)])),
  listings: 1,
  listBegan,
  starting: new Set(),
  attached: new Set(),
  connected: true,
});
const LINKS = [link(1, 'eth0', ''), link(2, 'docker_gwbridge', 'bridge'), link(3, 'veth1', 'veth', 2)];
const managed = () => true;
const ignored = () => false;
const exemptOf = (v: DockerView, is: () => boolean, foreign: ForeignBridges): readonly number[] =>
  bindPorts(v, LINKS, new Map(), is, foreign.unproven(v, LINKS, is)).exempt;

describe('a veth on a bridge that no network has', () => {
  it('is not exempt until a list begun after it appeared there knows nothing of it', () => {
    const foreign = new ForeignBridges();
    expect(exemptOf(view(50), managed, foreign)).toEqual([]);
    expect(exemptOf(view(100), managed, foreign)).toEqual([]); // begun in the same moment: proves nothing
    expect(exemptOf(view(150), managed, foreign)).toEqual([3]);
  });

  it("turns out to be Docker's: never exempt, unless the network is ignored", () => {
    let asked = 0;
    const foreign = new ForeignBridges();
    foreign.newlyUnproven.subscribe(() => asked++);
    const before = view(50);
    expect(foreign.unproven(before, LINKS, managed)).toEqual(new Set([3]));
    expect(foreign.unproven(before, LINKS, managed)).toEqual(new Set([3]));
    expect(asked).toBe(1);
    const after = view(150, 'docker_gwbridge');
    expect(foreign.unproven(after, LINKS, managed)).toEqual(new Set());
    const ports = bindPorts(after, LINKS, new Map(), managed, new Set());
    expect([ports.exempt, ports.unbound.map((p) => p.index)]).toEqual([[], [3]]);
    expect(bindPorts(after, LINKS, new Map(), ignored, new Set()).exempt).toEqual([3]);
  });

  it('is reported once for each time that it appears on a bridge', () => {
    let asked = 0;
    const foreign = new ForeignBridges();
    foreign.newlyUnproven.subscribe(() => asked++);
    for (const since of [100, 100, 300]) {
      const links = LINKS.map((l) => (l.index === 3 ? { ...l, since } : l));
      expect(foreign.unproven(view(50), links, managed)).toEqual(new Set([3]));
    }
    expect(asked).toBe(2);
    foreign.unproven(view(50), [], managed);
    foreign.unproven(view(50), LINKS, managed);
    expect(asked).toBe(3);
  });
});

describe('a veth on the bridge of a network that is not managed', () => {
  it('is exempt only when the network was asked for after it appeared: the bridge may be another network’s now', () => {
    let asked = 0;
    const foreign = new ForeignBridges();
    foreign.newlyUnproven.subscribe(() => asked++);
    for (const at of [50, 100])
      expect(exemptOf(view(at, 'docker_gwbridge'), ignored, foreign), `${at}`).toEqual([]);
    expect(asked).toBe(1);
    expect(exemptOf(view(150, 'docker_gwbridge'), ignored, foreign)).toEqual([3]);
  });

  it('costs nothing on managed networks', () => {
    let asked = 0;
    const foreign = new ForeignBridges();
    foreign.newlyUnproven.subscribe(() => asked++);
    expect(exemptOf(view(50, 'docker_gwbridge'), managed, foreign)).toEqual([]);
    expect(asked).toBe(0);
  });
});
