/**
 * What a packet from a veth to its bridge meets before the host's routing: rules of other programs, and settings of bridges. Packets that are
 * handed past the bridge (past-bridge.ts) would not meet it.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Family } from '../lib/ip.js';
import { BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import { IDENTITY_TABLE } from '../ruleset/host-identity.js';
import type { SavedTables } from './iptables-text.js';
import {
  listAttributes,
  netfilterBody,
  parseAttributes,
  readCString,
  readU32be,
} from './netlink/netlink-codec.js';
import { NetlinkSocket } from './netlink/netlink-socket.js';

const NFNL_SUBSYS_NFTABLES = 10;
const MESSAGE = { getTable: 1, getChain: 4 } as const;
const FAMILY = { inet: 1, ip: 2, netdev: 5, bridge: 7 } as const;
type NftFamily = keyof typeof FAMILY;
/** NFTA_CHAIN_* and NFTA_HOOK_* (include/uapi/linux/netfilter/nf_tables.h). */
const CHAIN = { table: 1, name: 3, hook: 4, policy: 5, use: 6, type: 7 } as const;
const HOOK = { number: 1, device: 3, devices: 4 } as const;
/** NFTA_DEVICE_NAME; a device may also be given by a prefix. */
const DEVICE_NAME = 1;
const [NF_ACCEPT, PRE_ROUTING, LOCAL_IN, NF_INET_INGRESS] = [1, 0, 1, 5] as const;
const OWN: ReadonlySet<string> = new Set([`bridge ${BRIDGE_TABLE}`, BACKSTOP_TABLE, IDENTITY_TABLE]);
/** Tables of the family ip that iptables-nft manages: their rules are read by iptables-save. */
const IPTABLES: ReadonlySet<string> = new Set(['filter', 'nat', 'mangle', 'raw', 'security']);

/** A base chain of another program that has rules, or does not accept. */
interface BaseChain {
  readonly family: NftFamily;
  readonly table: string;
  readonly hook: number;
  readonly isNat: boolean;
  /** Of a chain at the ingress of devices; undefined where it is not for single ones. */
  readonly devices: readonly string[] | undefined;
}
export interface ForeignChains {
  readonly chains: readonly BaseChain[];
  /** Tables of the family ip that iptables does not manage. */
  readonly tables: readonly string[];
}

function baseChain(family: NftFamily, body: Buffer): BaseChain | undefined {
  const of = parseAttributes(body, 4);
  const table = readCString(of.get(CHAIN.table)) ?? '';
  const hook = parseAttributes(of.get(CHAIN.hook));
  const isEmpty = readU32be(of.get(CHAIN.use)) === 0 && readU32be(of.get(CHAIN.policy)) === NF_ACCEPT;
  if (!of.has(CHAIN.hook) || isEmpty || OWN.has(`${family} ${table}`)) return undefined;
  const listed = [...listAttributes(hook.get(HOOK.devices) ?? Buffer.alloc(0))];
  const named = [hook.get(HOOK.device), ...listed.map((a) => (a.type === DEVICE_NAME ? a.data : undefined))];
  const devices = named.flatMap((data) => readCString(data) ?? []);
  const isByName = devices.length > 0 && listed.every((a) => a.type === DEVICE_NAME);
  return {
    family,
    table,
    hook: readU32be(hook.get(HOOK.number)) ?? 0,
    isNat: readCString(of.get(CHAIN.type)) === 'nat',
    devices: isByName ? devices : undefined,
  };
}

/** Reads which hooks of nf_tables other programs use. */
export class ForeignHooks implements Disposable {
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#dumps = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  /** Rejects with NetlinkError. */
  async read(): Promise<ForeignChains> {
    const chains: BaseChain[] = [];
    for (const family of ['bridge', 'netdev', 'inet'] as const)
      chains.push(
        ...(await this.#dumps.dump(
          `list chains of the family ${family}`,
          request(MESSAGE.getChain, family),
          ({ body }) => baseChain(family, body),
        )),
      );
    const tables = await this.#dumps.dump(
      'list tables of the family ip',
      request(MESSAGE.getTable, 'ip'),
      ({ body }) => readCString(parseAttributes(body, 4).get(1)),
    );
    return { chains, tables: tables.filter((table) => !IPTABLES.has(table)) };
  }

  close(): void {
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
const request = (message: number, family: NftFamily): { type: number; body: Buffer } => ({
  type: (NFNL_SUBSYS_NFTABLES << 8) | message,
  body: netfilterBody(FAMILY[family], 0),
});

/** Which chain a packet from one of these devices to its bridge would meet. */
function hookOnPorts({ chains }: ForeignChains, isPort: (device: string) => boolean): string | undefined {
  const found = chains.find(({ family, hook, devices }) => {
    if (family === 'bridge') return hook === PRE_ROUTING || hook === LOCAL_IN;
    const isIngress = family === 'netdev' ? hook === 0 : hook === NF_INET_INGRESS;
    return isIngress && (devices === undefined || devices.some(isPort));
  });
  return found && `the table ${found.family} ${found.table} has rules for frames`;
}

/** DNAT to a neighbour, which br_netfilter would leave in the bridge; Docker's own rules leave out the bridge of the container. */
const SENDS_ELSEWHERE = / -j (?:DNAT|NETMAP)\b/;
/** The rules of other programs that need br_netfilter, as `Observed.tables` has them: the first found, in words. */
export function rulesBehindBridge(tables: ReadonlyMap<Family, SavedTables>): string | undefined {
  for (const [table, chains] of tables.get(4) ?? [])
    for (const rules of chains.values())
      for (const { text, hash } of rules) {
        if (hash !== undefined) continue;
        if (text.includes('-m physdev')) return `a rule in ${table} matches ports of bridges (${text})`;
        if (SENDS_ELSEWHERE.test(` ${text}`) && !text.includes('! -i '))
          return `a rule in ${table} may send packets to a neighbour (${text})`;
      }
  return undefined;
}
/** The same for tables of nf_tables that iptables-save does not show. */
function natBehindBridge({ chains, tables }: ForeignChains): string | undefined {
  const inet = chains.find(({ family, hook, isNat }) => family === 'inet' && isNat && hook === PRE_ROUTING);
  const table = inet ? `inet ${inet.table}` : tables[0] && `ip ${tables[0]}`;
  return table && `the table ${table} may send packets to a neighbour`;
}

/** The modules of ebtables-legacy, which keep rules outside of nf_tables. */
const LEGACY = ['ebtable_broute', 'ebtable_nat', 'ebtable_filter'];
const usesLegacyEbtables = (): string | undefined =>
  LEGACY.some((module) => existsSync(`/sys/module/${module}`))
    ? 'a module of ebtables-legacy is loaded, which may have rules for frames'
    : undefined;

const CALLS_IPTABLES = '/proc/sys/net/bridge/bridge-nf-call-iptables';
/** br_netfilter shows IPv4 packets within bridges to iptables. */
const showsBridgedPackets = (): boolean =>
  existsSync(CALLS_IPTABLES) && readFileSync(CALLS_IPTABLES, 'utf8').trim() !== '0';

/** Without it the module is not loaded, or built in: then rules show what matches ports. */
const PHYSDEV_USERS = '/sys/module/xt_physdev/refcnt';
/** Rules that match ports of bridges, by the module that they need; iptables-save shows only the tables of the iptables in use. */
const matchesPorts = (): string | undefined =>
  existsSync(PHYSDEV_USERS) && readFileSync(PHYSDEV_USERS, 'utf8').trim() !== '0'
    ? 'a rule matches ports of bridges (xt_physdev is in use)'
    : undefined;

/** What needs the way through br_netfilter. `rules`: what `rulesBehindBridge` has found. */
export const neededBehindBridge = (foreign: ForeignChains, rules: string | undefined): string | undefined =>
  rules ?? matchesPorts() ?? natBehindBridge(foreign);

/**
 * Why packets of these devices must not be handed past their bridges; undefined: they may. `rules`: as `neededBehindBridge`. Throws what
 * the file system does.
 */
export const reasonAgainst = (
  foreign: ForeignChains,
  rules: string | undefined,
  isPort: (device: string) => boolean,
): string | undefined =>
  usesLegacyEbtables() ??
  hookOnPorts(foreign, isPort) ??
  (showsBridgedPackets() ? neededBehindBridge(foreign, rules) : undefined);
