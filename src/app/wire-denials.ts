import type { DnsService } from '../dns/dns-service.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import { Denials, limitReason } from '../enforce/denials.js';
import type { Recording } from '../enforce/recording.js';
import type { ThreatLook } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import { mayReach } from '../ruleset/policy-evaluator.js';

/** Parts of the engine, some of which are made later than this. */
export interface DenialParts {
  readonly shape: KernelConfig;
  readonly state: AppliedState | undefined;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly threats: { readonly look: ThreatLook };
  readonly recording: Recording;
}

export const makeDenials = (engine: DenialParts): Denials =>
  new Denials({
    marks: engine.shape.marks,
    containerOf: (identity, src) =>
      [...(engine.state?.subjects.values() ?? [])].find((m) => m.identity === identity)?.id ??
      engine.names.containerAt(src),
    namesOf: (container, address) => engine.dns.namesFor(container, address),
    threats: engine.threats.look,
    limitReason: (container, what) => limitReason(what, engine.state?.subjects.get(container)),
    mayReach: (container, packet) => {
      const member = engine.state?.subjects.get(container);
      return member !== undefined && mayReach(member, packet);
    },
    onPassed: (e) => engine.recording.passed(e),
    onAsked: (container, name) => engine.recording.asked(container, name),
    tallies: engine.recording.tallies,
    now: Date.now,
  });
