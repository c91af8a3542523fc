/** Bodies of the requests to connection tracking, pure. */

import type { Flow } from '../../ruleset/flow.js';
import { AF_INET, AF_INET6, addressBytes } from './address.js';
import { attribute, nested, netfilterBody, u8, u16be, u32be, u32le } from './codec.js';
import { CTA, DIRECTIONS, ENDS, type FlowFilter, IP, PROTO, TUPLE } from './conntrack-codec.js';

const FILTER = { orig: 1, reply: 2 } as const;
/** CTA_FILTER_F_CTA_IP_SRC and _DST of net/netfilter/nf_internals.h. */
const FILTER_FLAG = { src: 1, dst: 2 } as const;

/** Dump request; `inKernel` adds the filter for the kernel (Linux >= 5.8). Undefined: a filter text is no address. */
export function dumpBody(family: 4 | 6, filter: FlowFilter, inKernel: boolean): Buffer | undefined {
  const parts: Buffer[] = [];
  const flags = { orig: 0, reply: 0 };
  for (const direction of DIRECTIONS) {
    const wanted = filter[direction] ?? {};
    const ip = addressAttributes(family, wanted);
    if (ip === undefined) return undefined;
    if (ip.length === 0) continue;
    parts.push(nested(CTA[direction], nested(TUPLE.ip, ...ip)));
    for (const end of ENDS) if (wanted[end] !== undefined) flags[direction] |= FILTER_FLAG[end];
  }
  const common = netfilterBody(family === 4 ? AF_INET : AF_INET6, 0, ...markAttributes(filter));
  if (!inKernel || parts.length === 0) return common;
  const wants = [attribute(FILTER.orig, u32le(flags.orig)), attribute(FILTER.reply, u32le(flags.reply))];
  return Buffer.concat([common, ...parts, nested(CTA.filter, ...wants)]);
}

/** Every kernel filters by mark. */
const markAttributes = ({ mark }: FlowFilter): Buffer[] =>
  mark ? [attribute(CTA.mark, u32be(mark.value)), attribute(CTA.markMask, u32be(mark.mask))] : [];

function addressAttributes(
  family: 4 | 6,
  wanted: { readonly src?: string; readonly dst?: string },
): Buffer[] | undefined {
  const out: Buffer[] = [];
  for (const end of ENDS) {
    const text = wanted[end];
    if (text === undefined) continue;
    const bytes = addressBytes(text);
    if (bytes === undefined || bytes.length !== (family === 4 ? 4 : 16)) return undefined;
    out.push(attribute(IP[`v${family}${end}`], bytes));
  }
  return out;
}

/** Exact delete: this tuple in this zone and, where known, with this id. */
export function removeBody(flow: Flow): Buffer {
  const parts = [nested(CTA.orig, flow.rawTuple)];
  if (flow.zone !== 0) parts.push(attribute(CTA.zone, u16be(flow.zone)));
  if (flow.id !== undefined) parts.push(attribute(CTA.id, u32be(flow.id)));
  return netfilterBody(flow.family === 4 ? AF_INET : AF_INET6, 0, ...parts);
}

/** Writes the mask's bits of this flow's mark. */
export function markBody(flow: Flow, value: number, mask: number): Buffer {
  const parts = [nested(CTA.orig, flow.rawTuple)];
  if (flow.zone !== 0) parts.push(attribute(CTA.zone, u16be(flow.zone)));
  parts.push(attribute(CTA.mark, u32be(value)), attribute(CTA.markMask, u32be(mask)));
  return netfilterBody(flow.family === 4 ? AF_INET : AF_INET6, 0, ...parts);
}

export interface Endpoints {
  readonly proto: number;
  readonly src: string;
  readonly sport: number;
  readonly dst: string;
  readonly dport: number;
}
/** Request for the flow whose answers go from `src` to `dst`; undefined when these are no addresses of one family. */
export function getByReplyBody(reply: Endpoints): Buffer | undefined {
  const family = addressBytes(reply.src)?.length === 4 ? 4 : 6;
  const ip = addressAttributes(family, reply);
  if (ip === undefined) return undefined;
  const proto = nested(
    TUPLE.proto,
    attribute(PROTO.number, u8(reply.proto)),
    attribute(PROTO.sport, u16be(reply.sport)),
    attribute(PROTO.dport, u16be(reply.dport)),
  );
  return netfilterBody(
    family === 4 ? AF_INET : AF_INET6,
    0,
    nested(CTA.reply, nested(TUPLE.ip, ...ip), proto),
  );
}
