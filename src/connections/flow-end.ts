/** The end of a connection that was refused: both sides are reset, and its entry in conntrack is deleted. */
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import type { ResetSender } from '../kernel/netlink/tcp-reset.js';
import { PROTOCOL_NUMBERS } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import type { Subject } from '../ruleset/desired-state.js';
import { zoneOf } from '../ruleset/host-identity.js';
import type { Expected } from './flow-check.js';
import type { FlowEnds } from './verified-names.js';

export type Resets = Pick<ResetSender, 'send' | typeof Symbol.dispose>;
type Side = 'client' | 'server';

export class FlowEnd {
  readonly #flows: Pick<Conntrack, 'deleteByOrigin'>;
  readonly #log: Pick<Logger, 'debug'>;

  constructor(flows: Pick<Conntrack, 'deleteByOrigin'>, log: Pick<Logger, 'debug'>) {
    this.#flows = flows;
    this.#log = log;
  }

  /** `answered`: this side was reset by the rules, which have refused a packet of it. Undefined: no packet waited. */
  reset(
    resets: Resets | undefined,
    { proto, source, sourcePort, address, port }: FlowEnds,
    expected: Expected | undefined,
    answered: Side | undefined,
  ): void {
    if (proto !== 'tcp' || !expected) return;
    const { byServer, byClient } = expected;
    const toServer = { src: source, sport: sourcePort, dst: address, dport: port };
    const toClient = { src: address, sport: port, dst: source, dport: sourcePort };
    try {
      if (answered !== 'server') resets?.send({ ...toServer, seq: byServer, ack: byClient });
      if (answered !== 'client') resets?.send({ ...toClient, seq: byClient, ack: byServer });
    } catch (err) {
      this.#log.debug({ err: String(err), address, port }, 'a refused connection stays open at one side');
    }
  }

  /** Delete the entry in conntrack: packets without a SYN open no other one. `subject`: its container, if it is known. */
  delete(ends: FlowEnds, subject: Subject | undefined): void {
    const { proto, source: src, sourcePort: sport, address: dst, port: dport } = ends;
    const first = { proto: PROTOCOL_NUMBERS[proto], src, sport, dst, dport };
    const zone = proto === 'udp' && subject ? zoneOf(subject) : undefined;
    try {
      // a flow that began before its container got a zone is in the default one
      if (zone === undefined || !this.#flows.deleteByOrigin(first, zone)) this.#flows.deleteByOrigin(first);
    } catch (err) {
      this.#log.debug(
        { err: String(err), address: dst, port: dport },
        'the flow of a refused connection stays',
      );
    }
  }
}
