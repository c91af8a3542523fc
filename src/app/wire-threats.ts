import type { Config } from '../config/config.js';
import type { DnsService } from '../dns/dns-service.js';
import type { EnforcementPass } from '../enforce/pass.js';
import type { Reconciler } from '../enforce/reconciler.js';
import type { FlowBlocklist } from '../kernel/delete-flows.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { ThreatLook } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import { ActiveThreats } from '../threats/active-threats.js';

/** Parts of the engine, some of which are made later than this. */
export interface ThreatParts {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly bars: FlowBlocklist;
  readonly dns: DnsService;
  readonly enforcer: EnforcementPass;
  readonly reconciler: Reconciler;
  readonly applied: Current<AppliedState>;
  lastRepair: string | null;
}
const RELEARN_MS = 10_000;
const SLICE_MS = 5;

export function makeThreats(engine: ThreatParts, { threats }: Config, log: Logger): ActiveThreats {
  const { shape, kernel } = engine;
  return new ActiveThreats({
    prefix: shape.prefix,
    identityMask: shape.marks.identity,
    maxEntries: threats.maxEntries,
    kernel,
    blocklist: engine.bars,
    applied: engine.applied,
    recheckAnswers: async (look) => {
      const told = await containersToRecheck(engine.dns, look);
      if (told.size === 0 || !engine.applied.value) return;
      engine.enforcer.recheck(told);
      await engine.reconciler.inForce(RELEARN_MS);
    },
    onRepaired: () => {
      engine.lastRepair = new Date().toISOString();
    },
    log,
  });
}

/** Containers that were told a name which is bad now, or an address. */
async function containersToRecheck({ ledger }: DnsService, look: ThreatLook): Promise<ReadonlySet<string>> {
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
