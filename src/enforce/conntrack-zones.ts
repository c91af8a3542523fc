import type { FlowTable } from '../kernel/delete-flows.js';
import type { Cgroup, Subject } from '../ruleset/desired-state.js';
import { identityMark, type Marks } from '../ruleset/marks.js';
import { isDue, type Pass } from './pass-trigger.js';

interface ZonesOptions {
  readonly marks: Marks;
  readonly flows: FlowTable;
}
const TCP = 6;
const SCTP = 132;
const AGAIN_MS = 30_000;
const objectsOf = (m: Subject): string[] => m.host?.cgroups.map((c) => c.object) ?? [];

/**
 * Determines which host-network containers have their datagrams in a conntrack zone: those with rules from their first
 * instruction, and others once no stream goes on outside of the zone, because its port would change.
 */
export class ConntrackZones {
  readonly #o: ZonesOptions;
  /** Cgroups (objects). */
  #own: ReadonlySet<string> = new Set();
  /** Of those that have streams outside. */
  #busy: ReadonlySet<string> = new Set();
  /** Paths of the cgroups with a rule of an earlier run. */
  #standing: ReadonlySet<string> = new Set();

  constructor(options: ZonesOptions) {
    this.#o = options;
  }

  takeOver(paths: ReadonlySet<string>): void {
    this.#standing = paths;
  }

  /** `isLate`: its rules came after it had begun. */
  has(cgroups: readonly Cgroup[], isLate: boolean): boolean {
    return !isLate || cgroups.every((c) => this.#own.has(c.object) || this.#standing.has(c.path));
  }

  /** Check the subjects with late rules. Call it once their flows carry their marks. */
  async check(
    late: readonly Subject[],
    { triggers, later }: Pick<Pass, 'triggers' | 'later'>,
  ): Promise<void> {
    const isRecheck = isDue(triggers, 'zones');
    const ready = late.filter((m) => m.host?.zoned);
    const others = late.filter((m) => !m.host?.zoned);
    const asked = others.filter((m) => isRecheck || objectsOf(m).some((o) => !this.#busy.has(o)));
    const free: Subject[] = [];
    for (const m of asked) if (!(await this.#hasStreams(m))) free.push(m);
    this.#own = new Set([...ready, ...free].flatMap(objectsOf));
    this.#busy = new Set(others.filter((m) => !free.includes(m)).flatMap(objectsOf));
    if (free.length > 0) later({ kind: 'zones' }, 0);
    if (this.#busy.size > 0) later({ kind: 'zones' }, AGAIN_MS);
  }

  /** conntrack calls it assured: both sides have sent for more than two seconds (nf_conntrack_proto_udp.c). */
  async #hasStreams(m: Subject): Promise<boolean> {
    const { marks, flows } = this.#o;
    const mark = { value: identityMark(marks, m.identity), mask: marks.identity };
    const found = await Promise.all(([4, 6] as const).map((family) => flows.flows(family, { mark })));
    return found.flat().some((f) => f.proto !== TCP && f.proto !== SCTP && f.status?.assured === true);
  }
}
