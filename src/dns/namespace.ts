/**
 * What stands inside a container's own network namespace, where Docker's embedded resolver asks upstream from the
 * host and nobody there could tell who asked. Text only; applying it (nft -f - in that namespace) is the caller's.
 */

/** Docker's embedded resolver (moby libnetwork/resolver.go): port 53 of it is rewritten to a random port by nat rules. */
export const embeddedResolver = '127.0.0.11';
const table = 'inet drawbridge';

/**
 * nft script that sends queries for 127.0.0.11:53 to our socket at 127.0.0.11:`port`, and closes everything else there.
 * Applying it again replaces it in one transaction.
 *
 * - nat at -110: before iptables' nat OUTPUT (-100). The first chain that maps a connection wins (nf_nat_core.c,
 *   nf_nat_inet_fn), so Docker's rules may be put back at any time.
 * - output: Docker's own port would answer a direct query.
 * - input: a packet socket on lo passes no output hook (the kernel drops that as martian unless route_localnet is set).
 * - source 127.0.0.11 is refused: no client has it, and as a "reply" to it a forged packet would reach Docker's port.
 */
export function namespaceRules(port: number): string {
  const to = `ip daddr ${embeddedResolver}`;
  const ours = `${to} ip saddr != ${embeddedResolver} meta l4proto { tcp, udp } th dport ${port}`;
  return `table ${table}
delete table ${table}
table ${table} {
  chain resolver_nat {
    type nat hook output priority -110; policy accept;
    ${to} udp dport 53 dnat ip to ${embeddedResolver}:${port}
    ${to} tcp dport 53 dnat ip to ${embeddedResolver}:${port}
  }
  chain resolver_out {
    type filter hook output priority 0; policy accept;
    ${ours} accept
    ${to} meta l4proto tcp reject with tcp reset
    ${to} reject with icmp type port-unreachable
  }
  chain resolver_in {
    type filter hook input priority 0; policy accept;
    iif != "lo" ${to} drop
    ${ours} accept
    ${to} drop
  }
}
`;
}

/** nft script that takes all of it out again; does nothing where it is not. */
export function namespaceRulesGone(): string {
  return `table ${table}\ndelete table ${table}\n`;
}
