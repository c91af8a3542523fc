import type { FastifyRequest } from 'fastify';
import { badRequest } from './problems.js';

export const etagOf = (revision: number): string => `"${revision}"`;

/**
 * The revision that a change is made for, from If-Match and If-None-Match (RFC 9110 13.1): undefined: any; 0: none yet.
 * @param current the revision now, for `If-Match: *`; throws when there is none.
 */
export function guardedRevision(request: FastifyRequest, current: () => number): number | undefined {
  const { 'if-match': match, 'if-none-match': noneMatch } = request.headers;
  if (noneMatch !== undefined && noneMatch.trim() !== '*') {
    badRequest(
      `If-None-Match: ${noneMatch} guards no change`,
      'send If-None-Match: * to make a new one only',
    );
  }
  if (noneMatch !== undefined) return 0;
  if (match === undefined) return undefined;
  if (match.trim() === '*') return current();
  const revision = /^"(\d{1,15})"$/.exec(match.trim())?.[1];
  if (revision === undefined)
    badRequest(`If-Match: ${match} is not an ETag of a list`, 'send the ETag of the GET, such as "17"');
  return Number(revision);
}
