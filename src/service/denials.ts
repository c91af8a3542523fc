import { Denials } from '../control/denials.js';
import type { InForce } from '../control/enforcer.js';
import { limitReason } from '../control/limit-reasons.js';
import type { NamesPolicy } from '../control/names-policy.js';
import { mayReach } from '../control/reach.js';
import type { Shape } from '../desired/state.js';
import type { DnsService } from '../dns/service.js';
import type { ThreatLook } from '../model/threat.js';
import type { Recording } from './recording.js';

/** Parts of the engine, some of which are made later than this. */
export interface DenialParts {
  readonly shape: Shape;
  readonly state: InForce | undefined;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly threats: { readonly look: ThreatLook };
  readonly recording: Recording;
}

export const makeDenials = (engine: DenialParts): Denials =>
  new Denials({
    marks: engine.shape.marks,
    containerOf: (identity, src) =>
      [...(engine.state?.members.values() ?? [])].find((m) => m.identity === identity)?.id ??
      engine.names.whoIs(src),
    namesOf: (container, address) => engine.dns.namesFor(container, address),
    threats: engine.threats.look,
    limitReason: (container, what) => limitReason(what, engine.state?.members.get(container)),
    mayReach: (container, packet) => {
      const member = engine.state?.members.get(container);
      return member !== undefined && mayReach(member, packet);
    },
    onPassed: (e) => engine.recording.passed(e),
    onAsked: (container, name) => engine.recording.asked(container, name),
    tallies: engine.recording.tallies,
    now: Date.now,
  });
