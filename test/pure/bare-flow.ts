/** What a conntrack entry has beside its ends and its mark, as long as a test does not care. */
export const BARE_FLOW = {
  status: { seenReply: false, assured: false, confirmed: true, srcNat: false, dstNat: false },
  zone: 0,
  rawTuple: Buffer.alloc(0),
} as const;
