/**
 * A catalogue of public feeds. Drawbridge controls where containers connect to, so feeds of destinations (command and
 * control, malware hosts, hijacked networks) are recommended; feeds of attackers apply to incoming connections.
 * Licences as their makers stated them in 2025–2026; a user who turns a feed on accepts its terms.
 */
import type { Direction } from '../policy/threat.js';

export interface CatalogueFeed {
  readonly name: string;
  readonly what: string;
  readonly url: string;
  readonly format: string;
  readonly direction: Direction;
  /** Hours between fetches; never less than the maker allows. */
  readonly everyHours: number;
  /** SPDX identifier, or the terms in words. */
  readonly licence: string;
  readonly terms: string;
  /** Useful against connections that containers open. */
  readonly recommended: boolean;
  /** On by default: only feeds whose terms ask nothing of the user, commercial or not. */
  readonly enabled: boolean;
  /** The list may be empty. */
  readonly mayBeEmpty?: boolean;
}

export const CATALOGUE: readonly CatalogueFeed[] = [
  {
    name: 'feodo-tracker',
    what: 'command and control servers of banking trojans and loaders, by abuse.ch',
    url: 'https://feodotracker.abuse.ch/downloads/ipblocklist.csv',
    format: 'csv',
    direction: 'outbound',
    everyHours: 1,
    licence: 'CC0-1.0',
    terms: 'https://feodotracker.abuse.ch/blocklist/',
    recommended: true,
    enabled: true,
    mayBeEmpty: true,
  },
  {
    name: 'threatfox-ips',
    what: 'addresses of ThreatFox indicators (abuse.ch), compiled hourly by elliotwutingfeng',
    url: 'https://raw.githubusercontent.com/elliotwutingfeng/ThreatFox-IOC-IPs/main/ips.txt',
    format: 'netset',
    direction: 'outbound',
    everyHours: 1,
    licence: 'CC0-1.0 (data)',
    terms: 'https://github.com/elliotwutingfeng/ThreatFox-IOC-IPs',
    recommended: true,
    enabled: true,
  },
  {
    name: 'blocklistproject-ransomware',
    what: 'domains of ransomware: command and control, and distribution',
    url: 'https://raw.githubusercontent.com/blocklistproject/Lists/master/adguard/ransomware-ags.txt',
    format: 'adblock',
    direction: 'outbound',
    everyHours: 24,
    licence: 'Unlicense',
    terms: 'https://github.com/blocklistproject/Lists',
    recommended: true,
    enabled: true,
  },
  {
    name: 'spamhaus-drop',
    what: 'IPv4 networks that are hijacked or leased by criminals',
    url: 'https://www.spamhaus.org/drop/drop_v4.json',
    format: 'spamhaus',
    direction: 'both',
    everyHours: 12,
    licence: 'Spamhaus DROP terms: free of charge, credit and copyright line kept, one fetch an hour at most',
    terms: 'https://www.spamhaus.org/blocklists/drop-fair-use-policy/',
    recommended: true,
    enabled: false,
  },
  {
    name: 'spamhaus-drop-v6',
    what: 'the same in IPv6',
    url: 'https://www.spamhaus.org/drop/drop_v6.json',
    format: 'spamhaus',
    direction: 'both',
    everyHours: 12,
    licence: 'Spamhaus DROP terms: free of charge, credit and copyright line kept, one fetch an hour at most',
    terms: 'https://www.spamhaus.org/blocklists/drop-fair-use-policy/',
    recommended: true,
    enabled: false,
  },
  {
    name: 'urlhaus-hostfile',
    what: 'domains that spread malware right now, by abuse.ch; wants an Auth-Key',
    url: 'https://urlhaus.abuse.ch/downloads/hostfile/',
    format: 'hosts',
    direction: 'outbound',
    everyHours: 1,
    licence: 'abuse.ch terms: free under fair use; for commercial use a subscription may be needed',
    terms: 'https://urlhaus.abuse.ch/api/',
    recommended: true,
    enabled: false,
  },
  {
    name: 'hagezi-tif-medium',
    what: 'domains of malware, phishing and scams (threat intelligence feeds, medium size)',
    url: 'https://raw.githubusercontent.com/hagezi/dns-blocklists/main/wildcard/tif.medium-onlydomains.txt',
    format: 'domains',
    direction: 'outbound',
    everyHours: 24,
    licence: 'GPL-3.0',
    terms: 'https://github.com/hagezi/dns-blocklists',
    recommended: true,
    enabled: false,
  },
  {
    name: 'malicious-outgoing-ip',
    what: 'addresses of command and control, malware and phishing, from many sources',
    url: 'https://raw.githubusercontent.com/romainmarcoux/malicious-outgoing-ip/main/full-outgoing-ip-40k.txt',
    format: 'netset',
    direction: 'outbound',
    everyHours: 4,
    licence: 'MIT for the compilation; each source has terms of its own',
    terms: 'https://github.com/romainmarcoux/malicious-outgoing-ip',
    recommended: true,
    enabled: false,
  },
  {
    name: 'firehol-level1',
    what: 'networks without legitimate traffic (bogons, Spamhaus DROP, command and control), by FireHOL',
    url: 'https://raw.githubusercontent.com/firehol/blocklist-ipsets/master/firehol_level1.netset',
    format: 'netset',
    direction: 'both',
    everyHours: 6,
    licence: 'none stated; each source has terms of its own',
    terms: 'https://iplists.firehol.org/?ipset=firehol_level1',
    recommended: false,
    enabled: false,
  },
  {
    name: 'bitwire-outbound-v6',
    what: 'IPv6 addresses not to be reached, from many sources',
    url: 'https://raw.githubusercontent.com/bitwire-it/ipblocklist/main/tables/outbound/ipv6.txt',
    format: 'netset',
    direction: 'outbound',
    everyHours: 6,
    licence: 'CC-BY-NC-SA-4.0: not for commercial use',
    terms: 'https://github.com/bitwire-it/ipblocklist',
    recommended: false,
    enabled: false,
  },
  {
    name: 'ipsum-3',
    what: 'attackers that three blacklists or more agree on',
    url: 'https://raw.githubusercontent.com/stamparm/ipsum/master/levels/3.txt',
    format: 'netset',
    direction: 'inbound',
    everyHours: 24,
    licence: 'Unlicense',
    terms: 'https://github.com/stamparm/ipsum',
    recommended: false,
    enabled: false,
  },
  {
    name: 'dshield-block',
    what: 'the 20 /24 networks that attack most',
    url: 'https://feeds.dshield.org/block.txt',
    format: 'dshield',
    direction: 'inbound',
    everyHours: 6,
    licence: 'CC-BY-NC-SA-2.5: not for commercial use',
    terms: 'https://creativecommons.org/licenses/by-nc-sa/2.5/',
    recommended: false,
    enabled: false,
  },
];
