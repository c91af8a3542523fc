/** What is said of a threat feed before anything of it is fetched. */
import { canonicalName } from '../lib/dns-name.js';

/** What `format` may say: "auto" looks; the rest are formats and other words for them. */
export const FEED_FORMATS = [
  'auto',
  'netset',
  'csv',
  'dshield',
  'ipsum',
  'ndjson',
  'spamhaus',
  'hosts',
  'domains',
  'adblock',
  'resolver',
  'misp',
  'stix',
  'crowdsec',
  'cidr',
  'drop',
  'ipset',
  'plain',
  'wildcard',
  'dnsmasq',
  'unbound',
  'taxii',
] as const;

interface FeedFault {
  /** Which key is at fault. */
  readonly key: 'url' | 'format' | 'proxy';
  readonly detail: string;
  readonly remedy: string;
}

/** Releases of Node differ in the names that they accept in a URL. */
function hasBrokenHost(url: string): boolean {
  const host = new URL(url).hostname;
  return /(^|\.)xn--/.test(host) && !canonicalName(host, 1).ok;
}

/** What a schema cannot say of a feed; each with its remedy. */
export function feedProblems(feed: {
  readonly name: string;
  readonly url: string;
  readonly format: string;
  readonly proxy?: string | undefined;
}): readonly FeedFault[] {
  const faults: FeedFault[] = [];
  if (!FEED_FORMATS.some((format) => format === feed.format))
    faults.push({
      key: 'format',
      detail: `feed ${feed.name}: the format "${feed.format}" is not known`,
      remedy: `write one of ${FEED_FORMATS.join(', ')}`,
    });
  if (!URL.canParse(feed.url) || !/^(?:file|https?):/.test(feed.url) || hasBrokenHost(feed.url))
    faults.push({
      key: 'url',
      detail: `feed ${feed.name}: ${feed.url} cannot be fetched`,
      remedy: 'write a file://, http:// or https:// address',
    });
  else if (feed.format === 'crowdsec' && !/[?&]startup=true(?:&|$)/.test(feed.url))
    faults.push({
      key: 'url',
      detail: `feed ${feed.name}: without startup=true the LAPI sends only changes, not the whole list`,
      remedy: 'write …/v1/decisions/stream?startup=true',
    });
  if (feed.proxy !== undefined && !/^http:\/\/[^/]+\/?$/.test(feed.proxy))
    faults.push({
      key: 'proxy',
      detail: `feed ${feed.name}: the proxy is not written as http://HOST:PORT`,
      remedy: 'write it like http://proxy.example:3128',
    });
  return faults;
}
