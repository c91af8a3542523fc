import { setTimeout as sleep } from 'node:timers/promises';
import type { DnsService } from '../dns/dns-service.js';
import { HostResolvers } from '../dns/host-resolvers.js';
import type { Cgroups, NftAbilities } from '../kernel/cgroups.js';
import { type Parents, readNotes, writeNotes } from '../kernel/host-notes.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Logger } from '../lib/log.js';
import { textIfThere } from '../lib/small-file.js';
import { type ContainerFacts, type DockerView, isUp } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import type { Cgroup, HostCgroups } from '../ruleset/desired-state.js';

/** The unified cgroup hierarchy. Paths have no slash before them. */
type CgroupTree = Pick<Cgroups, 'isKnown' | 'of' | 'at' | 'inside' | 'make'>;
export interface HostSendersOptions {
  readonly cgroups: CgroupTree;
  readonly parents: Parents;
  readonly onParents: (p: Parents) => void;
  /** Every table may have a rule on a container's own cgroup: not with iptables-legacy, see `#gates`. */
  readonly singles: () => boolean;
  /** The kernel can give datagrams zones of conntrack. */
  readonly zones: () => boolean;
  /** What nft can do for them (`nftAbilities`), and whether programs check frames before all rules. */
  readonly nft: () => NftAbilities & { readonly framesChecked?: boolean };
}

const CONTAINER = /^(docker-)?[0-9a-f]{64}(\.scope)?$/;
/** Where BuildKit in dockerd puts its steps (moby builder-next, buildkit oci.GenerateSpec). */
const BUILDS = 'buildkit';
const MAX_DEPTH = 6;
const names = (id: string): readonly string[] => [id, `docker-${id}.scope`];
const isBelow = (path: string, parent: string): boolean => path.startsWith(`${parent}/`);
const isGated = (c: Cgroup, gates: readonly Cgroup[]): boolean =>
  gates.some((g) => g.path === c.path || isBelow(c.path, g.path));

/** Finds the cgroups of host-network containers, and the parent cgroups that queue their packets before they are known. */
export class HostCgroupTable {
  readonly #o: HostSendersOptions;
  readonly #parents: Set<string>;
  readonly #made: Set<string>;
  /** Where each process that Docker named is: it does not change. */
  #placed = new Map<string, string | undefined>();
  /** By cgroup object: whether it was below a gate when it was first seen. */
  #heldAtStart = new Map<string, boolean>();
  /** Paths of the gates that are installed in the kernel. */
  #standing: ReadonlySet<string> = new Set();

  constructor(options: HostSendersOptions) {
    this.#o = options;
    this.#parents = new Set(options.parents.known);
    this.#made = new Set(options.parents.made);
  }

  /** Containers will be put below this cgroup. */
  expect(parent: string): void {
    if (this.#parents.has(parent)) return;
    this.#parents.add(parent);
    this.#tell();
  }

  /** Note that these gates are installed in the kernel. */
  setInstalled(gates: readonly Pick<Cgroup, 'path'>[]): void {
    this.#standing = new Set(gates.map((g) => g.path));
  }

  find(view: DockerView): HostCgroups {
    const before = this.#gates().filter((g) => this.#standing.has(g.path));
    this.#learn(view);
    this.#ensure();
    const owners = [...view.containers.values()].filter((c) => c.networkMode === 'host');
    const cgroups = new Map(owners.map((c) => [c.id, this.#cgroupsOf(c, view)] as const));
    const parents = this.#gates();
    const singles = this.#singles([...cgroups.values()].flat(), parents);
    const gates = [...parents, ...singles];
    this.#remember([...cgroups.values()].flat(), before);
    const held = new Map(
      [...cgroups].filter(([, own]) => own.length > 0 && own.every((c) => isGated(c, gates))),
    );
    const nft = this.#o.nft();
    return {
      net: {
        gates,
        exempt: this.#own(gates),
        builds: this.#builds(parents),
        zones: this.#o.zones(),
        native: nft.identifies,
        queues: nft.queues,
        strips: nft.strips === true,
        framesChecked: nft.framesChecked === true,
      },
      cgroups: held,
      late: new Map([...held].flatMap(([id, own]) => this.#lateness(id, own, parents))),
      open: new Map(
        owners
          .filter((c) => isUp(c.state) && !held.has(c.id))
          .map((c) => [c.id, this.#whyOpen(cgroups.get(c.id))]),
      ),
    };
  }

  #lateness(
    id: string,
    own: readonly Cgroup[],
    parents: readonly Cgroup[],
  ): (readonly [string, 'shared' | 'unseen'])[] {
    if (own.some((c) => !isGated(c, parents))) return [[id, 'shared']];
    return own.every((c) => this.#heldAtStart.get(c.object)) ? [] : [[id, 'unseen']];
  }

  #whyOpen(own: readonly Cgroup[] | undefined): string {
    if (!this.#o.cgroups.isKnown)
      return 'this host has no unified cgroup hierarchy (cgroup v2), or Drawbridge sees only a part of it (run Drawbridge with --cgroupns=host)';
    if (!own || own.length === 0) return 'its cgroup was not found';
    return 'Docker put it into a cgroup that also has processes of the host, where iptables-legacy cannot match it';
  }

  #cgroupsOf(owner: ContainerFacts, view: DockerView): Cgroup[] {
    const sharing = [...view.containers.values()].filter((c) => c.sharesWith === owner.id);
    return [owner, ...sharing].flatMap((c) => this.#cgroupOf(c) ?? []);
  }

  /** Found by its process once Docker has reported it, and before that by its name below a known parent. */
  #cgroupOf(c: ContainerFacts): Cgroup | undefined {
    const paths = [
      this.#placed.get(placeKey(c)) ?? [],
      ...[...this.#parents].flatMap((p) => names(c.id).map((n) => `${p}/${n}`)),
    ];
    for (const path of paths.flat()) {
      const found = this.#o.cgroups.at(path);
      if (found) return found;
    }
    return undefined;
  }

  /** The process of each container, on any network, shows where the engine puts containers. */
  #learn(view: DockerView): void {
    const placed = new Map<string, string | undefined>();
    const count = this.#parents.size;
    for (const c of view.containers.values()) {
      if (!c.privileges?.pid || !isUp(c.state)) continue;
      const key = placeKey(c);
      const path = this.#placed.has(key) ? this.#placed.get(key) : this.#place(c.id, c.privileges.pid);
      placed.set(key, path);
      const parent = path?.slice(0, path.lastIndexOf('/'));
      if (parent) this.#parents.add(parent);
    }
    this.#placed = placed;
    if (this.#parents.size > count) this.#tell();
  }

  /** The path up to the part with the container's id: the cgroups below it are its own. */
  #place(id: string, pid: number): string | undefined {
    const parts = this.#o.cgroups.of(pid)?.split('/') ?? [];
    const at = parts.findIndex((p) => p.includes(id));
    return at < 1 ? undefined : parts.slice(0, at + 1).join('/');
  }

  /** Create missing parents: the packets of the first container below one are queued only if it exists. */
  #ensure(): void {
    const made = [...this.#parents].filter((p) => !isSlice(p) && this.#o.cgroups.make(p));
    for (const parent of made) this.#made.add(parent);
    if (made.length > 0) this.#tell();
  }

  /** Parents that are Docker's alone, the outermost ones. */
  #gates(): Cgroup[] {
    const found = [...this.#parents]
      .filter((p) => this.#isAlone(p))
      .flatMap((p) => this.#o.cgroups.at(p) ?? []);
    return found.filter((g) => !found.some((other) => isBelow(g.path, other.path)));
  }

  /** Only containers and build steps run in it; folders between have no processes. */
  #isAlone(parent: string, depth = MAX_DEPTH): boolean {
    const inside = this.#o.cgroups.inside(parent);
    if (parent === '' || !inside || inside.hasProcesses || depth === 0) return false;
    return inside.children.every(
      (c) => CONTAINER.test(c) || c === BUILDS || this.#isAlone(`${parent}/${c}`, depth - 1),
    );
  }

  /** Containers that share their parent with processes of the host. */
  #singles(all: readonly Cgroup[], parents: readonly Cgroup[]): Cgroup[] {
    if (!this.#o.singles()) return [];
    return all.filter((c) => !parents.some((p) => isBelow(c.path, p.path)));
  }

  #builds(parents: readonly Cgroup[]): Cgroup[] {
    return parents.flatMap((p) => this.#o.cgroups.at(`${p.path}/${BUILDS}`) ?? []);
  }

  #own(gates: readonly Cgroup[]): Cgroup[] {
    const path = this.#o.cgroups.of('self');
    const own = path === undefined ? undefined : this.#o.cgroups.at(path);
    return own && isGated(own, gates) ? [own] : [];
  }

  #remember(all: readonly Cgroup[], gates: readonly Cgroup[]): void {
    const held = (c: Cgroup): boolean => this.#heldAtStart.get(c.object) ?? isGated(c, gates);
    this.#heldAtStart = new Map(all.map((c) => [c.object, held(c)]));
  }

  #tell(): void {
    this.#o.onParents({ known: [...this.#parents], made: [...this.#made] });
  }
}

const placeKey = (c: ContainerFacts): string => `${c.id} ${c.privileges?.pid ?? 0}`;
/** systemd makes and removes its slices itself. */
const isSlice = (path: string): boolean => path.split('/').some((p) => p.endsWith('.slice'));

interface HostModeOptions {
  /** The state folder. */
  readonly folder: string;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly docker: Engine;
  readonly port: number;
  readonly log: Logger;
}
const ASK_MS = 2_000;
const DAEMON_FILE = '/etc/docker/daemon.json';
/** Docker's own default with the cgroupfs driver (moby daemon_unix.go, getCgroupParent). */
const DEFAULT_PARENT = 'docker';

/** What containers in the host's network need: their cgroups found, their names asked. */
export class HostMode implements Disposable {
  readonly senders: HostCgroupTable;
  readonly resolvers: HostResolvers;
  readonly #o: HostModeOptions;
  /** Id of the container that Drawbridge runs in, if it does: its cgroup path contains the id, with either driver. */
  readonly self: string | undefined;

  constructor(options: HostModeOptions) {
    const { folder, kernel, dns, port, log } = options;
    this.#o = options;
    this.self = /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/.exec(kernel.cgroups.of('self') ?? '')?.[0];
    this.senders = new HostCgroupTable({
      cgroups: kernel.cgroups,
      parents: readNotes(folder, (o, message) => log.warn(o, message)).parents,
      onParents: (p) => this.#keep(p),
      singles: () => !this.isLegacy,
      zones: () => kernel.hasZones,
      // the rules outlive the service, so that a program which ends with it replaces none of them
      nft: () => ({ ...kernel.nft, framesChecked: kernel.frames.state.isKept }),
    });
    this.resolvers = new HostResolvers({ dns, port, addresses: kernel.addressTable, log });
  }

  /** The command iptables is iptables-legacy. */
  get isLegacy(): boolean {
    return this.#o.kernel.isLegacy;
  }

  /** Called before the first pass. Determines where Docker will put containers, as far as that is known without one. */
  async prepare(): Promise<void> {
    const said = parentOf(textIfThere(DAEMON_FILE));
    if (said) this.senders.expect(said);
    if (!said && (await this.#driver()) === 'cgroupfs') this.senders.expect(DEFAULT_PARENT);
  }

  /** Docker may be away or hang: then what was last known must do. */
  #driver(): Promise<string> {
    const asked = this.#o.docker.infoAtConnection().then((d) => d.cgroupDriver);
    return Promise.race([asked, sleep(ASK_MS, '', { ref: false })]).catch(() => '');
  }

  #keep(parents: Parents): void {
    try {
      writeNotes(this.#o.folder, { parents });
    } catch (e) {
      this.#o.log.warn(
        { err: String(e) },
        'cannot save the cgroup parents of containers: after a restart the first container in the host network may be found late',
      );
    }
  }

  [Symbol.dispose](): void {
    this.resolvers[Symbol.dispose]();
  }
}

/** `cgroup-parent` of daemon.json; with systemd's driver it is the name of a slice, which gives its path in the tree. */
function parentOf(daemonJson: string | undefined): string | undefined {
  try {
    const said: unknown = JSON.parse(daemonJson ?? '{}')?.['cgroup-parent'];
    return typeof said === 'string' ? placeOf(said.replace(/^\/+|\/+$/g, '')) : undefined;
  } catch {
    return undefined; // dockerd does not start with such a file, and reports it
  }
}

/** systemd.slice(5): a-b.slice lies in a.slice. */
function placeOf(parent: string): string | undefined {
  if (parent === '') return undefined;
  if (!parent.endsWith('.slice') || parent.includes('/')) return parent;
  const parts = parent.slice(0, -'.slice'.length).split('-');
  return parts.map((_, n) => `${parts.slice(0, n + 1).join('-')}.slice`).join('/');
}
