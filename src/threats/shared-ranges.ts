/** Addresses that a feed must not take down as a whole: public resolvers, CDNs, and the large networks of clouds. */
import { parseCidr, type Range } from '../lib/ip-range.js';
import { CLOUD_NETWORKS } from './clouds.js';

export interface KnownRange {
  /** Whose it is, for reports. */
  readonly label: string;
  readonly range: Range;
  /**
   * withhold: a line that names the whole of it does not block it. warn: told, and blocked.
   * A line about a small part of it is told and blocked either way.
   */
  readonly rule: 'withhold' | 'warn';
}

/** label → networks, each with the page that publishes it. */
const PUBLISHED: Readonly<Record<string, readonly string[]>> = {
  // https://developers.google.com/speed/public-dns/docs/using
  'Google Public DNS': ['8.8.8.8', '8.8.4.4', '2001:4860:4860::8888', '2001:4860:4860::8844'],
  // https://developers.cloudflare.com/1.1.1.1/ip-addresses/
  'Cloudflare 1.1.1.1': [
    '1.1.1.1',
    '1.1.1.2',
    '1.1.1.3',
    '1.0.0.1',
    '1.0.0.2',
    '1.0.0.3',
    '2606:4700:4700::1111',
    '2606:4700:4700::1112',
    '2606:4700:4700::1113',
    '2606:4700:4700::1001',
    '2606:4700:4700::1002',
    '2606:4700:4700::1003',
  ],
  // https://quad9.net/service/service-addresses-and-features/
  Quad9: [
    '9.9.9.9',
    '9.9.9.10',
    '9.9.9.11',
    '149.112.112.112',
    '149.112.112.10',
    '149.112.112.11',
    '2620:fe::fe',
    '2620:fe::9',
    '2620:fe::10',
    '2620:fe::11',
  ],
  // https://www.opendns.com/setupguide/
  OpenDNS: ['208.67.222.222', '208.67.220.220', '2620:119:35::35', '2620:119:53::53'],
  // https://adguard-dns.io/en/public-dns.html
  'AdGuard DNS': ['94.140.14.14', '94.140.15.15', '2a10:50c0::ad1:ff', '2a10:50c0::ad2:ff'],
  // https://www.cloudflare.com/ips/
  Cloudflare: [
    '173.245.48.0/20',
    '103.21.244.0/22',
    '103.22.200.0/22',
    '103.31.4.0/22',
    '141.101.64.0/18',
    '108.162.192.0/18',
    '190.93.240.0/20',
    '188.114.96.0/20',
    '197.234.240.0/22',
    '198.41.128.0/17',
    '162.158.0.0/15',
    '104.16.0.0/13',
    '104.24.0.0/14',
    '172.64.0.0/13',
    '131.0.72.0/22',
    '2400:cb00::/32',
    '2606:4700::/32',
    '2803:f800::/32',
    '2405:b500::/32',
    '2405:8100::/32',
    '2a06:98c0::/29',
    '2c0f:f248::/32',
  ],
  // https://api.fastly.com/public-ip-list
  Fastly: [
    '23.235.32.0/20',
    '43.249.72.0/22',
    '103.244.50.0/24',
    '103.245.222.0/23',
    '103.245.224.0/24',
    '104.156.80.0/20',
    '140.248.64.0/18',
    '140.248.128.0/17',
    '146.75.0.0/17',
    '151.101.0.0/16',
    '157.52.64.0/18',
    '167.82.0.0/17',
    '167.82.128.0/20',
    '167.82.160.0/20',
    '167.82.224.0/20',
    '172.111.64.0/18',
    '185.31.16.0/22',
    '199.27.72.0/21',
    '199.232.0.0/16',
    '2a04:4e40::/32',
    '2a04:4e42::/32',
  ],
};

function known(label: string, text: string): KnownRange {
  const range = parseCidr(text);
  if (!range) throw new Error(`well-known ranges: ${text} is not a network`);
  return { label, range, rule: 'withhold' };
}

export const WELL_KNOWN: readonly KnownRange[] = Object.entries({ ...PUBLISHED, ...CLOUD_NETWORKS }).flatMap(
  ([label, networks]) => networks.map((text) => known(label, text)),
);
