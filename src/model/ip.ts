/** All that the rooms need of addresses, by one import. */
export type { Address, Family } from './ip-address.js';
export { canonicalAddress, formatAddress, parseAddress } from './ip-address.js';
export type { Cidr, Range } from './ip-range.js';
export {
  formatRange,
  parseCidr,
  rangeCovers,
  rangeHas,
  rangeOf,
  rangesOverlap,
  rangeToCidrs,
} from './ip-range.js';
export { isPrivateSpace, NOT_ANY_V4, NOT_ANY_V6, privateRangeOf } from './special-use.js';
