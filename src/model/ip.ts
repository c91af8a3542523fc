/** Addresses are carried as canonical text (RFC 5952 for v6) at the edges and as bigint inside ranges. */
export type Family = 4 | 6;
export interface Range {
  readonly family: Family;
  readonly lo: bigint;
  readonly hi: bigint;
}
