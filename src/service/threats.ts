import type { Config } from '../config/config.js';
import type { Enforcer, InForce } from '../control/enforcer.js';
import type { Reconciler } from '../control/reconciler.js';
import { Threats } from '../control/threats.js';
import type { Shape } from '../desired/state.js';
import type { DnsService } from '../dns/service.js';
import type { KernelAdapter } from '../kernel/adapter.js';
import type { Flow } from '../kernel/netlink/conntrack-codec.js';
import type { ThreatLook } from '../model/threat.js';
import type { Logger } from '../ports.js';

export interface ThreatParts {
  readonly config: Config;
  readonly shape: Shape;
  readonly kernel: KernelAdapter;
  readonly dns: () => DnsService;
  readonly enforcer: () => Enforcer<Flow>;
  readonly reconciler: () => Reconciler;
  readonly state: () => InForce | undefined;
  readonly onRepaired: () => void;
  readonly log: Logger;
}
const RELEARN_MS = 10_000;
const SLICE_MS = 5;

export function makeThreats(p: ThreatParts): Threats<Flow> {
  return new Threats<Flow>({
    prefix: p.shape.prefix,
    identityMask: p.shape.marks.identity,
    maxEntries: p.config.threats.maxEntries,
    kernel: p.kernel.bulk,
    barrier: p.kernel,
    flows: p.kernel.flows,
    state: p.state,
    relearn: async (look) => {
      const told = await toldBad(p.dns(), look);
      if (told.size === 0 || !p.state()) return;
      p.enforcer().recheck(told);
      await p.reconciler().inForce(RELEARN_MS);
    },
    onRepaired: p.onRepaired,
    log: p.log,
  });
}

/** Containers that were told a name which is bad now, or an address. */
async function toldBad({ ledger }: DnsService, look: ThreatLook): Promise<ReadonlySet<string>> {
  const known = new Map<string, boolean>();
  const isBad = (text: string, hit: (text: string) => unknown): boolean => {
    const bad = known.get(text) ?? hit(text) !== undefined;
    known.set(text, bad);
    return bad;
  };
  const found = new Set<string>();
  let sliceEnds = performance.now() + SLICE_MS;
  for (const { container, name, address } of ledger.snapshot()) {
    if (
      !found.has(container) &&
      (isBad(name, (n) => look.blockedName(n)) || isBad(address, (a) => look.blockedAddress(a)))
    )
      found.add(container);
    if (performance.now() < sliceEnds) continue;
    await new Promise<void>((resume) => setImmediate(resume));
    sliceEnds = performance.now() + SLICE_MS;
  }
  return found;
}
