import type { Allowance, BridgeDesired, Subject } from './state.js';

const SHORT_ID = 12;
/** A limit of the kernel cannot be changed: another rate is another name. */
const limitName = (id: string, bytesPerSecond: number): string =>
  `r-${id.slice(0, SHORT_ID)}-${bytesPerSecond}`;

/**
 * What ports may send in a second, and send and receive in a period. Objects of the bridge table hold and count them: for
 * established flows too, without a rule for each container, whether the service runs or not. Ports of one member share
 * one object. What is spent is counted no more: the member's chain refuses it, so that it is told.
 */
export function portLimits(
  members: readonly Subject[],
): Pick<BridgeDesired, 'limits' | 'allowances' | 'rates' | 'quotas'> {
  const limits = new Map<string, number>();
  const allowances = new Map<string, Allowance>();
  const rates = new Map<number, string>();
  const quotas = new Map<number, string>();
  for (const m of members) {
    const isEnforced = m.policy.mode === 'enforce';
    const rate = isEnforced ? m.limits?.bytesPerSecond : undefined;
    const quota = m.limits?.quota;
    if (m.veths.length === 0) continue;
    if (rate !== undefined) limits.set(limitName(m.id, rate), rate);
    if (quota) allowances.set(quota.name, { bytes: quota.bytes, used: quota.used });
    for (const { ifindex } of m.veths) {
      if (rate !== undefined) rates.set(ifindex, limitName(m.id, rate));
      if (quota && !(isEnforced && quota.spent)) quotas.set(ifindex, quota.name);
    }
  }
  return { limits, allowances, rates, quotas };
}

export const LIMIT_DECLARATIONS = `
  map rates { type iface_index : limit; }
  map quotas { type iface_index : quota; }
  set asking { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  set holding { typeof meta iif; size 65535; flags dynamic,timeout; timeout 10s; }
  chain delivered { type filter hook postrouting priority 300; policy accept; }`;

/** Packets a second and port, whatever addresses they bear: to resolvers, and of ports that nobody has classified. */
const ASKING = 'limit rate over 2000/second burst 1000 packets';
const HOLDING = 'limit rate over 200/second burst 400 packets';

/** For every port that is not another's. An observed port's bytes count, and none are dropped. */
export const SENDING: readonly string[] = [
  'quota name iif map @quotas iif @strict drop',
  'limit name iif map @rates drop',
  `meta l4proto { tcp, udp } th dport 53 update @asking { iif ${ASKING} } drop`,
];
export const HOLDING_BOUND = `update @holding { iif ${HOLDING} } drop`;
export const DELIVERED: readonly string[] = ['quota name oif map @quotas oif @strict drop'];
