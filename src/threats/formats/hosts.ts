/** hosts(5) files that send names nowhere. The address is never taken: only sinks may stand there. */
import type { Collector } from '../collect.js';
import { BELOW, SELF } from '../names.js';
import { uncomment } from './domains.js';
import { type BodyParser, textLines } from './lines.js';
import type { FormatOptions } from './options.js';
import { addName } from './value.js';

const SINKS = /^(?:0\.0\.0\.0|127(?:\.\d{1,3}){3}|::|::1|0)$/;
/** What every hosts file begins with. */
const BOILERPLATE =
  /^(?:localhost|localhost\.localdomain|localhost6?|local|broadcasthost|ip6-[a-z]+|0\.0\.0\.0)$/i;

function line(text: string, into: Collector, flags: number): void {
  const [address = '', ...all] = uncomment(text).split(/\s+/);
  if (address === '') return;
  const names = all.filter((name) => !BOILERPLATE.test(name));
  if (all.length === 0) into.refuse(text, 'no name behind the address');
  else if (names.length > 0 && !SINKS.test(address)) into.refuse(text, 'sends names elsewhere, not nowhere');
  else for (const name of names) take(name, into, flags);
}

function take(name: string, into: Collector, flags: number): void {
  const fault = addName(name, flags, into);
  if (fault === '') into.entries += 1;
  else into.refuse(name, fault);
}

/** A hosts file speaks of exactly its names, as resolvers read it; `subdomains: true` widens it. */
export const hosts = (into: Collector, options: FormatOptions): BodyParser => {
  const flags = options.subdomains === true ? SELF | BELOW : SELF;
  return textLines((text) => line(text, into, flags), into);
};
