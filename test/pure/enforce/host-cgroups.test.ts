import { describe, expect, it } from 'vitest';
import { HostCgroupTable, HostMode } from '../../../src/enforce/host-cgroups.js';
import type { Cgroups } from '../../../src/kernel/cgroups.js';
import type { Parents } from '../../../src/kernel/host-notes.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';

const ID = (n: number): string => n.toString(16).padStart(64, '0');

/** A hierarchy as text: path → processes. Objects count up, as the kernel's ids do. */
class Tree implements Pick<Cgroups, 'isKnown' | 'of' | 'at' | 'inside' | 'make'> {
  readonly isKnown = true;
  readonly #at = new Map<string, { object: string; pids: number[] }>();
  #next = 1;
  put(path: string, ...pids: number[]): this {
    const parts = path.split('/');
    for (let n = 1; n <= parts.length; n++) this.make(parts.slice(0, n).join('/'));
    this.#at.get(path)?.pids.push(...pids);
    return this;
  }
  drop(path: string): void {
    for (const p of this.#at.keys()) if (p === path || p.startsWith(`${path}/`)) this.#at.delete(p);
  }
  of(pid: number | 'self'): string | undefined {
    return [...this.#at].find(([, c]) => c.pids.includes(pid === 'self' ? 1 : pid))?.[0];
  }
  at(path: string) {
    const found = this.#at.get(path);
    return found && { path, object: found.object };
  }
  inside(path: string) {
    const found = this.#at.get(path);
    if (!found) return undefined;
    const below = [...this.#at.keys()].filter((p) => p.startsWith(`${path}/`));
    return {
      children: [...new Set(below.map((p) => p.slice(path.length + 1).split('/')[0] as string))],
      hasProcesses: found.pids.length > 0,
    };
  }
  make(path: string): boolean {
    if (this.#at.has(path)) return false;
    this.#at.set(path, { object: String(this.#next++), pids: [] });
    return true;
  }
}

function container(
  n: number,
  more: Partial<ContainerFacts> & { readonly pid?: number } = {},
): ContainerFacts {
  const { pid, ...facts } = more;
  const privileges = {
    privileged: false,
    capAdd: [],
    pidMode: '',
    binds: [],
    devices: [],
    dns: [],
    pid: pid ?? 0,
    sandboxKey: '',
  };
  return {
    id: ID(n),
    name: `c${n}`,
    image: 'busybox',
    imageId: '',
    labels: {},
    state: 'running',
    networkMode: 'host',
    endpoints: [],
    published: [],
    ...(pid === undefined ? {} : { privileges }),
    ...facts,
  };
}
const viewOf = (...containers: ContainerFacts[]): DockerView => ({
  content: {},
  containers: new Map(containers.map((c) => [c.id, c])),
  networks: new Map(),
  listings: 1,
  listBegan: 0,
  starting: new Set(),
  attached: new Set(),
  connected: true,
});
function table(tree: Tree, known: readonly string[] = [], singles = true) {
  const told: Parents[] = [];
  const senders = new HostCgroupTable({
    cgroups: tree,
    parents: { known, made: [] },
    onParents: (p) => told.push(p),
    zones: () => true,
    nft: () => ({ identifies: false, queues: false }),
    singles: () => singles,
  });
  /** As a pass does: look, then the gates stand. */
  const pass = (...containers: ContainerFacts[]) => {
    const found = senders.find(viewOf(...containers));
    senders.setInstalled(found.net.gates);
    return found;
  };
  return { senders, pass, told };
}
const paths = (cgroups: readonly { readonly path: string }[] | undefined): string[] =>
  (cgroups ?? []).map((c) => c.path).sort();

describe('cgroups of containers in the host network', () => {
  it('a known parent is made, and holds whom nobody knows yet', () => {
    const tree = new Tree();
    const { pass, told } = table(tree, ['docker']);
    expect(paths(pass().net.gates)).toEqual(['docker']);
    expect(told.at(-1)?.made).toEqual(['docker']);
    tree.put(`docker/${ID(1)}`, 100);
    const found = pass(container(1, { state: 'created' }));
    expect(paths(found.cgroups.get(ID(1)))).toEqual([`docker/${ID(1)}`]);
    expect(found.late.size).toBe(0);
  });

  it('parents are learned from any container’s process, and written down', () => {
    const tree = new Tree().put(`own/parent/${ID(1)}`, 100);
    const { pass, told } = table(tree);
    const found = pass(container(1, { networkMode: 'bridge', pid: 100 }));
    expect(paths(found.net.gates)).toEqual(['own/parent']);
    expect(told.at(-1)?.known).toEqual(['own/parent']);
    tree.put(`own/parent/${ID(2)}`, 200);
    const next = pass(container(1, { networkMode: 'bridge', pid: 100 }), container(2));
    expect(paths(next.cgroups.get(ID(2)))).toEqual([`own/parent/${ID(2)}`]);
    expect([...next.late]).toEqual([]);
  });

  it('who was there before its parent was known is late', () => {
    const tree = new Tree().put(`docker/${ID(1)}`, 100);
    const { pass } = table(tree);
    const found = pass(container(1, { pid: 100 }));
    expect([...found.late]).toEqual([[ID(1), 'unseen']]);
    expect([...pass(container(1, { pid: 100 })).late]).toEqual([[ID(1), 'unseen']]);
    tree.drop(`docker/${ID(1)}`);
    tree.put(`docker/${ID(1)}`, 101);
    expect([...pass(container(1, { pid: 101 })).late]).toEqual([]);
  });

  it('gates that stand from an earlier run held it', () => {
    const tree = new Tree().put(`docker/${ID(1)}`, 100);
    const { senders, pass } = table(tree, ['docker']);
    senders.setInstalled([{ path: 'docker' }]);
    expect([...pass(container(1, { pid: 100 })).late]).toEqual([]);
  });

  it('a parent shared with others’ processes is no gate: one by one, and late', () => {
    const tree = new Tree()
      .put('system.slice/sshd.service', 7)
      .put(`system.slice/docker-${ID(1)}.scope`, 100)
      .put(`system.slice/docker-${ID(2)}.scope`, 200);
    const { pass } = table(tree);
    const both = [container(1, { pid: 100 }), container(2, { pid: 200, networkMode: 'bridge' })];
    const found = pass(...both);
    expect(paths(found.net.gates)).toEqual([`system.slice/docker-${ID(1)}.scope`]);
    expect([...found.late]).toEqual([[ID(1), 'shared']]);
    expect(found.open.size).toBe(0);
    const legacy = table(tree, [], false).pass(...both);
    expect(legacy.net.gates).toEqual([]);
    expect(legacy.cgroups.size).toBe(0);
    expect(legacy.open.get(ID(1))).toContain('iptables-legacy');
  });

  it('a slice of Docker’s own is a gate while systemd keeps it, and not made by us', () => {
    const tree = new Tree().put(`containers.slice/docker-${ID(1)}.scope`, 100);
    const { pass } = table(tree, ['other.slice']);
    expect(paths(pass(container(1, { pid: 100 })).net.gates)).toEqual(['containers.slice']);
  });

  it('processes in the parent itself, or foreign cgroups, make it shared', () => {
    const tree = new Tree().put('docker', 5).put(`docker/${ID(1)}`, 100);
    expect(paths(table(tree).pass(container(1, { pid: 100 })).net.gates)).toEqual([`docker/${ID(1)}`]);
    const other = new Tree().put('docker/machine', 5).put(`docker/${ID(1)}`, 100);
    expect(paths(table(other).pass(container(1, { pid: 100 })).net.gates)).toEqual([`docker/${ID(1)}`]);
  });

  it('an empty folder beside containers is nobody’s', () => {
    const tree = new Tree()
      .put('docker/x/y')
      .put(`docker/x/z/${ID(2)}`, 200)
      .put(`docker/${ID(1)}`, 100);
    expect(paths(table(tree).pass(container(1, { pid: 100 })).net.gates)).toEqual(['docker']);
  });

  it('the root is never a gate', () => {
    const tree = new Tree().put(ID(1), 100);
    const found = table(tree).pass(container(1, { pid: 100 }));
    expect(found.net.gates).toEqual([]);
    expect(found.open.get(ID(1))).toContain('was not found');
  });

  it('below another parent there is one gate, the outer', () => {
    const tree = new Tree().put(`docker/${ID(1)}`, 100).put(`docker/team/${ID(2)}`, 200);
    const found = table(tree).pass(container(1, { pid: 100 }), container(2, { pid: 200 }));
    expect(paths(found.net.gates)).toEqual(['docker']);
    expect(paths(found.cgroups.get(ID(2)))).toEqual([`docker/team/${ID(2)}`]);
  });

  it('those that share its namespace are the same sender; a container’s own cgroups too', () => {
    const tree = new Tree().put(`docker/${ID(1)}/init`, 100).put(`docker/${ID(2)}`, 200);
    const side = container(2, { networkMode: `container:${ID(1)}`, sharesWith: ID(1) });
    const found = table(tree, ['docker']).pass(container(1, { pid: 100 }), side);
    expect(paths(found.cgroups.get(ID(1)))).toEqual([`docker/${ID(1)}`, `docker/${ID(2)}`]);
    expect(found.cgroups.has(ID(2))).toBe(false);
  });

  it('Drawbridge itself below a gate is exempt, and build steps are named', () => {
    const tree = new Tree().put(`docker/${ID(9)}`, 1).put('docker/buildkit/x', 300);
    const { net } = table(tree, ['docker']).pass();
    expect(paths(net.exempt)).toEqual([`docker/${ID(9)}`]);
    expect(paths(net.builds)).toEqual(['docker/buildkit']);
    expect(paths(net.gates)).toEqual(['docker']);
  });
});

it.each([true, false])(
  'programs that check frames stand in for the rule only if they outlive the service (%s)',
  (isKept) => {
    const kernel = {
      cgroups: new Tree(),
      hasZones: true,
      nft: { identifies: false, queues: false },
      frames: { state: { isOn: true, isKept } },
    };
    const options = { folder: '/absent', kernel, dns: {}, docker: {}, port: 53, log: console };
    const mode = new HostMode(options as unknown as ConstructorParameters<typeof HostMode>[0]);
    expect(mode.senders.find(viewOf()).net.framesChecked).toBe(isKept);
  },
);
