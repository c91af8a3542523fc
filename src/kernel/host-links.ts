import type { HostLink } from '../ports.js';
import type { Links } from './netlink/links.js';
import type { Link } from './netlink/route-codec.js';

/** The host's links, with the MAC at the far end of those veths that are not in `known` (whose port is bound already). */
export async function hostLinks(links: Links, known: ReadonlySet<number>): Promise<HostLink[]> {
  const all = await links.list();
  const here = new Map(all.map((l) => [l.index, l]));
  return all.map((l) => ({
    index: l.index,
    name: l.name,
    kind: l.kind ?? '',
    mac: l.mac ?? '',
    ...(l.master ? { master: l.master } : {}),
    ...(l.linkNamespaceId === undefined ? {} : { netnsId: l.linkNamespaceId }),
    ...(l.kind === 'veth' && !known.has(l.index) ? peerMac(links, here, l) : {}),
  }));
}

function peerMac(links: Links, here: ReadonlyMap<number, Link>, veth: Link): { peerMac?: string } {
  if (veth.peerIndex === undefined) return {};
  const peer =
    veth.linkNamespaceId === undefined
      ? here.get(veth.peerIndex)
      : links.getLinkInNamespace(veth.linkNamespaceId, veth.peerIndex);
  return peer?.mac ? { peerMac: peer.mac } : {};
}
