import { cgroupsOf, gate, HOLD_LIMIT, inCgroup } from './host-net.js';
import { UNATTRIBUTED } from './marks.js';
import type { Names } from './naming.js';
import { type Rule, rule } from './rules.js';
import type { DesiredInput, KernelConfig, Subject } from './state.js';

/**
 * Containers in the host's network have its addresses, and the connection table keeps a datagram's flow for up to two
 * minutes after its socket: whoever got the port next, for the same destination, would find the flow of somebody else.
 * So the datagrams of each are looked for in a zone of its own (its identity), by which the host's processes and others
 * are not found. Answers are looked for by everybody, in zone 0; two flows with the same answer differ by the port that
 * NAT gives the later one. Streams need none: a SYN opens a flow anew (nf_conntrack_proto_tcp.c).
 */
const STREAMS = ['tcp', 132] as const;
/** Of a zone: 16 bits (include/net/netfilter/nf_conntrack_zones.h). */
const MAX_ZONE = 65_535;

/** `raw`, before conntrack. */
export function hostRaw(input: DesiredInput, names: Names): Map<string, Rule[]> {
  const streams = STREAMS.map((proto) => rule([{ k: 'proto', proto }], { k: 'return' }));
  return new Map([
    [names.hostRaw, [...streams, ...gate(input.hostNet, names.hostZone)]],
    [
      names.hostZone,
      [
        ...input.hostNet.builds.map((c) => rule([inCgroup(c)], { k: 'zone', zone: UNATTRIBUTED })),
        ...input.subjects.flatMap(zoneRules),
        ...hold(input.shape, names),
      ],
    ],
  ]);
}

const zoneRules = (m: Subject): Rule[] =>
  cgroupsOf(m).map((c) =>
    rule(
      [inCgroup(c)],
      m.host?.zoned && m.identity <= MAX_ZONE ? { k: 'zone', zone: m.identity } : { k: 'return' },
    ),
  );

/**
 * Who is not known yet waits here, so that its first datagram has the zone of its second. `mangle` decides what may go
 * out: with nobody listening, or above the limit, it is asked at once.
 */
function hold(shape: KernelConfig, names: Names): Rule[] {
  const { held } = shape.marks;
  return [
    // a packet without any flow, or template of one, is in this state
    rule([{ k: 'ct', states: ['INVALID'], not: true }], { k: 'return' }),
    rule([{ k: 'mark', value: held, mask: held }], { k: 'return' }),
    rule([{ k: 'limit', name: `${names.prefix}-hz`, ...HOLD_LIMIT }], {
      k: 'queue',
      queue: shape.holdQueue,
      bypass: true,
    }),
  ];
}
