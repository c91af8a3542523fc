/** Ids, addresses and labels as the Docker API writes them, each validated and in canonical form, and what the engine reports about itself. Pure. */
import { parseAddress } from '../lib/ip.js';
import { asRecord, flagAt, listAt, recordAt, textAt, textMap, textsAt } from '../lib/json.js';
import type { EngineInfo } from '../policy/engine.js';

/** A full container, network or image-config id: 64 hex digits. */
export function isFullId(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text);
}

/** EUI-48 with colons, lower case; undefined for anything else. */
export function canonicalMac(text: string): string | undefined {
  const lower = text.toLowerCase().replaceAll('-', ':');
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(lower) ? lower : undefined;
}

/** Canonical text (RFC 5952 for v6) of an address that may carry a prefix length; undefined when it is no address. */
export function canonicalIp(text: string): string | undefined {
  return parseAddress(text.split('/', 1)[0] ?? '')?.text;
}

/** Canonical CIDR text; undefined when it is none. Host bits stay as they are (Docker shows networks). */
export function canonicalCidr(text: string): string | undefined {
  const [address = '', length = ''] = text.split('/');
  const ip = canonicalIp(address);
  const max = ip?.includes(':') ? 128 : 32;
  return ip !== undefined && /^\d{1,3}$/.test(length) && Number(length) <= max
    ? `${ip}/${Number(length)}`
    : undefined;
}

/** Parts of answers that could not be read, for the log. */
export type Notes = string[];

/**
 * Replaces labels that cannot be read. It is an unknown `drawbridge.*` key, and so enforces with an empty policy: a container
 * with unreadable labels must not pass as one without labels.
 */
export const UNREADABLE_LABELS: Readonly<Record<string, string>> = { 'drawbridge.unreadable': 'docker' };

export function labelsOf(value: unknown, where: string, notes: Notes): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  const record = asRecord(value);
  if (record && Object.values(record).every((v) => typeof v === 'string')) return textMap(record);
  notes.push(`${where}: labels are not a map of texts; treated as broken labels`);
  return UNREADABLE_LABELS;
}

/** The answer of `GET /info`. */
export function readDaemon(info: unknown): EngineInfo {
  const i = asRecord(info);
  const backend = textAt(recordAt(i, 'FirewallBackend'), 'Driver');
  return {
    serverVersion: textAt(i, 'ServerVersion'),
    rootDir: textAt(i, 'DockerRootDir'),
    liveRestore: flagAt(i, 'LiveRestoreEnabled'),
    cgroupDriver: textAt(i, 'CgroupDriver'),
    cgroupVersion: textAt(i, 'CgroupVersion'),
    defaultRuntime: textAt(i, 'DefaultRuntime'),
    securityOptions: textsAt(i, 'SecurityOptions'),
    ...(backend && { firewallBackend: backend }),
    bridgeNfIptables: flagAt(i, 'BridgeNfIptables'),
    bridgeNfIp6tables: flagAt(i, 'BridgeNfIp6tables'),
    ipv4Forwarding: flagAt(i, 'IPv4Forwarding'),
    swarm: textAt(recordAt(i, 'Swarm'), 'LocalNodeState') === 'active',
    hasPlugins: listAt(recordAt(i, 'NRI'), 'Info').length > 0,
  };
}
