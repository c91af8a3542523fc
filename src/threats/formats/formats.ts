/** All formats by name. */
import type { Collector } from '../collect.js';
import { adblock } from './adblock.js';
import { crowdsec } from './crowdsec.js';
import { csv } from './csv.js';
import { domains } from './domains.js';
import { hosts } from './hosts.js';
import type { BodyParser } from './lines.js';
import { misp } from './misp.js';
import { ndjson, spamhaus } from './ndjson.js';
import { netset } from './netset.js';
import type { FormatOptions } from './options.js';
import { resolverConf } from './resolver-conf.js';
import { stix } from './stix.js';
import { dshield, ipsum } from './tables.js';

type Make = (into: Collector, options: FormatOptions) => BodyParser;

const FORMATS = {
  netset,
  csv,
  dshield,
  ipsum,
  ndjson,
  spamhaus,
  hosts,
  domains,
  adblock,
  resolver: resolverConf,
  misp,
  stix,
  crowdsec,
} satisfies Record<string, Make>;

export type FormatName = keyof typeof FORMATS;

/** Other words for the same, as people name feeds. */
const ALIASES: Readonly<Record<string, FormatName>> = {
  cidr: 'netset',
  drop: 'netset',
  ipset: 'netset',
  plain: 'domains',
  wildcard: 'domains',
  dnsmasq: 'resolver',
  unbound: 'resolver',
  taxii: 'stix',
};

const isFormat = (name: string): name is FormatName => Object.hasOwn(FORMATS, name);

/** Undefined: no such format ("auto" is none either). */
export function formatNamed(name: string): FormatName | undefined {
  if (isFormat(name)) return name;
  return Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
}

export const parserFor = (format: FormatName, into: Collector, options: FormatOptions): BodyParser =>
  FORMATS[format](into, options);

/** Positions in these are items of one JSON document, not lines. */
export const countsItems = (format: FormatName): boolean =>
  format === 'misp' || format === 'stix' || format === 'crowdsec';
