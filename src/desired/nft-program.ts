/** An nft table of ours, beside its elements. */
export interface NftProgram {
  /** As nft names it: "bridge drawbridge". */
  readonly table: string;
  /** Maps, sets, and chains without their rules. */
  readonly declarations: string;
  readonly rules: ReadonlyMap<string, readonly string[]>;
}
