import { isPublicSuffix } from '../lib/dns-name.js';
import { formatRange } from '../lib/ip.js';
import { type DestEntry, type Flag, type PortRange, type Proto, refuse, type Target } from './entry.js';
import { isWide, widestPrefix } from './entry-address.js';
import { checkPorts, formatPorts, orderFlags } from './entry-ports.js';

/** Before a deny entry. */
export const DENY = '!';
const PREFIX = { exact: '', below: '*.', both: '.' } as const;

/** A target as an entry has it, without brackets. */
export function formatTarget(target: Target): string {
  switch (target.kind) {
    case 'address':
      return formatRange(target.range);
    case 'name':
      return `${PREFIX[target.match]}${target.name}`;
    case 'container':
      return `container:${target.name}`;
    default:
      return target.kind;
  }
}

type Unsealed = Pick<DestEntry, 'target' | 'ports' | 'flags' | 'deny' | 'comment' | 'expires'> & {
  readonly proto?: Proto | undefined;
};

function canonicalText(
  target: Target,
  ports: readonly PortRange[],
  proto: Proto | undefined,
  flags: readonly Flag[],
): string {
  const bare = formatTarget(target);
  const bracketed = ports.length > 0 && target.kind === 'address' && target.range.family === 6;
  const dest = bracketed ? `[${bare}]` : bare;
  const portText = ports.length > 0 ? `:${formatPorts(ports)}` : '';
  return [`${dest}${portText}${proto ? `/${proto}` : ''}`, ...flags].join(' ');
}

function guardBroad(target: Target): void {
  if (target.kind === 'address' && isWide(target.range)) {
    const text = formatTarget(target);
    refuse(
      `${text} is wider than /${widestPrefix(target.range.family)}`,
      `narrow it, or write "${text} broad"`,
    );
  }
  if (target.kind === 'name' && target.match !== 'exact' && isPublicSuffix(target.name)) {
    const text = formatTarget(target);
    refuse(
      `${text} covers a public suffix: anyone can register names below ${target.name}`,
      `name the domains you mean, or write "${text} broad"`,
    );
  }
}

/** A deny entry needs none: it permits nothing, so that it may be as broad as it likes. */
function refuseFlags(flags: readonly Flag[]): void {
  const [first] = flags;
  if (first) refuse(`a deny entry takes no flags, such as ${first}`, `remove ${flags.join(' ')}`);
}

/** Checks what the parts mean together and gives the entry its canonical text. Throws EntryFault. */
export function sealEntry(parts: Unsealed): DestEntry {
  const { target, ports, deny, comment, expires } = parts;
  checkPorts(target.kind === 'name' && !deny, ports, parts.proto, 0);
  const flags = orderFlags(parts.flags);
  if (deny) refuseFlags(flags);
  else if (!flags.includes('broad')) guardBroad(target);
  if (flags.includes('dns=direct') && target.kind === 'name')
    refuse(
      'dns=direct needs the resolver’s address',
      'write the address, such as 192.0.2.53:53/udp dns=direct',
    );
  // Ports without a protocol are tcp: one canonical text for both forms.
  const proto = parts.proto === 'tcp' && ports.length > 0 ? undefined : parts.proto;
  return {
    kind: 'dest',
    canonical: `${deny ? DENY : ''}${canonicalText(target, ports, proto, flags)}`,
    target,
    ports,
    ...(proto && { proto }),
    flags,
    ...(deny && { deny }),
    ...(comment !== undefined && { comment }),
    ...(expires !== undefined && { expires }),
  };
}
