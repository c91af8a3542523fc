/** All that the rooms need of addresses, by one import. */
export type { Address, Family } from './ip-address.js';
export { formatAddress, parseAddress } from './ip-address.js';
export type { Range } from './ip-range.js';
export { formatRange, networkOf, parseCidr, parseSubnet, rangeHas, rangeToCidrs } from './ip-range.js';
export { ANY_V4, anyNetworks, privateRangeOf, publicRanges } from './special-use.js';
