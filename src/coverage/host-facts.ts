import type { Family } from '../lib/ip.js';

/** A rule of somebody else that accepts forwarded packets before ours see them. */
export interface ForeignAccept {
  readonly family: Family;
  readonly chain: string;
  /** As iptables-save prints it, without "-A CHAIN". */
  readonly rule: string;
}

/** What of the host, beside containers, bears on what can be held. */
export interface HostFacts {
  /** net.ipv4.ip_forward and net.ipv6.conf.all.forwarding. */
  readonly forwarding: { readonly v4: boolean; readonly v6: boolean };
  /** net.bridge.bridge-nf-call-iptables and -ip6tables; undefined: br_netfilter is not loaded. */
  readonly bridgeNf?: { readonly v4: boolean; readonly v6: boolean };
  /** DOCKER-USER stands in `filter` and FORWARD jumps to it. */
  readonly dockerUser: { readonly v4: boolean; readonly v6: boolean };
  readonly foreignAccepts: readonly ForeignAccept[];
  readonly firewalld: boolean;
  readonly ufw: boolean;
  /** The host's resolvers, as /etc/resolv.conf names them. */
  readonly resolvers: readonly string[];
}
