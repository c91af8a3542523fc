/** What the bridge of a managed network knows of a veth without learning it. */
export interface HeldVeth {
  /** Index of the bridge. */
  readonly master: number;
  readonly mac: string;
  /** It gets frames to MACs that the bridge does not know. */
  readonly flood: boolean;
  /** As read from the kernel; none of ours learns. */
  readonly learning?: boolean;
}

interface Veth {
  readonly index: number;
  readonly master?: number;
  /** Of the container's end. */
  readonly mac: string;
}
export interface ForwardingInput {
  /** Veths of containers, and their MAC as Docker knows it. */
  readonly bound: readonly Veth[];
  /** Veths of managed bridges that belong to no container yet, or to none, and the MAC that they have. */
  readonly others: readonly Veth[];
  /** MACs of the host itself: bridges, and its ends of veths. */
  readonly own: ReadonlySet<string>;
  readonly isEnforced: (ifindex: number) => boolean;
}

/**
 * A static entry of the forwarding table for each veth, which then teaches its bridge nothing: a frame with the MAC of another
 * container as its source would turn that container's traffic to its sender. Enforced veths get no frames to unknown MACs
 * either: a table that somebody has filled overhears nothing for them. Others still do, for MACs behind a container (macvlan
 * or a bridge inside it).
 */
export function forwardingOf({ bound, others, own, isEnforced }: ForwardingInput): Map<number, HeldVeth> {
  const held = new Map<number, HeldVeth>();
  const taken = new Set<string>();
  for (const { index, master, mac } of [...bound, ...others]) {
    const key = `${master} ${mac}`;
    if (master === undefined || mac === '' || own.has(mac) || taken.has(key)) continue;
    taken.add(key);
    held.set(index, { master, mac, flood: !isEnforced(index) });
  }
  return held;
}
