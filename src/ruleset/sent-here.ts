import { type Rule, rule } from './rules.js';
import type { KernelConfig } from './state.js';

/** In `nat`, ahead of any DNAT: the flow keeps that it was sent to the host, for `host:` entries (held packets, too). */
export const sentHere = ({ marks }: KernelConfig): Rule =>
  rule([{ k: 'toHost' }], { k: 'connMark', bits: marks.here });
