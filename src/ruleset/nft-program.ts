/** An nft table of ours, beside its elements. */
export interface NftProgram {
  /** As nft names it: "bridge drawbridge". */
  readonly table: string;
  /** Maps, sets, and chains without their rules. */
  readonly declarations: string;
  readonly rules: ReadonlyMap<string, readonly string[]>;
  /** What the kernel holds for the text of the rules: another object of the same name makes another program. */
  readonly objects?: readonly string[];
}
