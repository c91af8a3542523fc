/** Keeps fetches out of private space: a feed's server must not choose what this host talks to (SSRF). */
import { lookup as resolve } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import { parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import { privateRangeOf } from '../lib/special-use.js';
import { FetchFault } from './fetch-types.js';

/** Not even a feed that may be private comes from here: link-local, and where clouds hand out credentials. */
const NEVER: readonly Range[] = [
  '169.254.0.0/16',
  'fe80::/10',
  'fd00:ec2::254/128',
  '168.63.129.16/32',
].flatMap((text) => parseCidr(text) ?? []);

const isPrivate = (text: string): boolean => {
  const address = parseAddress(text);
  return !address || privateRangeOf(address) !== undefined;
};

const isNever = (text: string): boolean => {
  const address = parseAddress(text);
  return !address || NEVER.some((range) => rangeHas(range, address));
};

/** Throws FetchFault. */
function checkAddress(address: string, host: string, allowPrivate: boolean): void {
  const refused = allowPrivate ? isNever(address) : isPrivate(address);
  if (!refused) return;
  throw new FetchFault(
    `${host} is ${address}, which is private, loopback, link-local or metadata space`,
    allowPrivate
      ? 'no feed is fetched from there'
      : 'if this feed is meant to come from there, allow private addresses for it',
  );
}

/** The host of a URL without the brackets of v6. */
export const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, '');

/** Checks a URL whose host is an address; a connection to one never asks `guardedLookup`. */
export function checkLiteral(url: URL, allowPrivate: boolean): void {
  const host = hostOf(url);
  if (isIP(host) !== 0) checkAddress(host, host, allowPrivate);
}

/** For `net.connect`: what it resolves is what is checked is what is connected to. All addresses must be good. */
export function guardedLookup(allowPrivate: boolean): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, []);
      try {
        for (const { address } of addresses) checkAddress(address, hostname, allowPrivate);
      } catch (fault) {
        return callback(fault as Error, []);
      }
      const [first] = addresses;
      if (options.all === true || !first) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

/** Behind a proxy the name is resolved elsewhere; what this host knows of it must be good all the same. */
export async function checkBehindProxy(url: URL, allowPrivate: boolean): Promise<void> {
  const host = hostOf(url);
  const addresses = await new Promise<readonly string[]>((done) => {
    // A host behind a proxy often resolves nothing at all: then the proxy is the judge.
    resolve(host, { all: true }, (error, found) => done(error ? [] : found.map(({ address }) => address)));
  });
  for (const address of addresses) checkAddress(address, host, allowPrivate);
}
