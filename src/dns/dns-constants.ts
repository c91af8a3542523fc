/** Numbers of the IANA registries "Domain Name System (DNS) Parameters". */
export const type = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DS: 43,
  DNAME: 39,
  OPT: 41,
  RRSIG: 46,
  DNSKEY: 48,
  SVCB: 64,
  HTTPS: 65,
  IXFR: 251,
  AXFR: 252,
  ANY: 255,
} as const;

export const rcode = {
  NOERROR: 0,
  FORMERR: 1,
  SERVFAIL: 2,
  NXDOMAIN: 3,
  NOTIMP: 4,
  REFUSED: 5,
  /** Extended (RFC 6891): its low four bits are zero. */
  BADVERS: 16,
} as const;

/** Extended DNS errors (RFC 8914 section 4). */
export const extendedError = { OTHER: 0, NOT_READY: 14, PROHIBITED: 18, NO_REACHABLE_AUTHORITY: 22 } as const;

export const classIn = 1;

const names = new Map<number, string>(Object.entries(type).map(([name, number]) => [number, name]));

/** The mnemonic, or "TYPE65280" (RFC 3597 section 5). */
export function typeName(number: number): string {
  return names.get(number) ?? `TYPE${number}`;
}

/** Bytes of rdata before its names, how many names, and bytes behind them. */
export interface NameLayout {
  readonly skip: number;
  readonly names: number;
  readonly rest: number;
}

/**
 * Position of the names in rdata that a sender may have compressed (RFC 1035, RFC 3597 section 4). Rdata that is longer or
 * shorter than its type requires is malformed.
 */
export const nameLayout: ReadonlyMap<number, NameLayout> = new Map(
  [
    [type.NS, 0, 1],
    [3, 0, 1],
    [4, 0, 1],
    [type.CNAME, 0, 1],
    [type.SOA, 0, 2],
    [7, 0, 1],
    [8, 0, 1],
    [9, 0, 1],
    [type.PTR, 0, 1],
    [14, 0, 2],
    [type.MX, 2, 1],
    [17, 0, 2],
    [18, 2, 1],
    [21, 2, 1],
    [26, 2, 2],
    [type.SRV, 6, 1],
    [36, 2, 1],
    [type.DNAME, 0, 1],
  ].map(([number = 0, skip = 0, names = 0]) => [number, { skip, names, rest: number === type.SOA ? 20 : 0 }]),
);
