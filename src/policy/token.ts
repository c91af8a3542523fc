/** Bearer tokens of the API (RFC 6750) and their roles. Pure. */
import { isRecord } from '../lib/json.js';

/** Each may what the one before may, and more. */
export const ROLES = ['read', 'write', 'admin'] as const;
export type Role = (typeof ROLES)[number];

/** A token as it is kept: never itself, only its SHA-256 (64 hex digits). */
export interface Token {
  readonly name: string;
  readonly role: Role;
  readonly hash: string;
  /** RFC 3339 UTC; absent for those of the configuration. */
  readonly created?: string;
  readonly expires?: string;
  /** The user that created it. */
  readonly by?: string;
}

export const mayAct = (has: Role, needs: Role): boolean => ROLES.indexOf(has) >= ROLES.indexOf(needs);

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$/;
export const isTokenName = (name: string): boolean => NAME.test(name);

/** In the configuration a token is written in clear, or as "sha256:" and the hash. */
export const HASHED = /^sha256:([0-9a-f]{64})$/;
/** What a bearer token may be made of (RFC 6750 2.1). */
const BEARER = /^[\w.~+/-]+=*$/;

/** Why a token of the configuration could never be one; the token itself is not repeated. */
export function tokenFault(token: string): { readonly detail: string; readonly remedy: string } | undefined {
  if (HASHED.test(token)) return undefined;
  if (token.startsWith('sha256:'))
    return {
      detail: 'no SHA-256 follows sha256:',
      remedy: 'write its 64 hex digits in lower case: printf %s TOKEN | sha256sum',
    };
  if (BEARER.test(token)) return undefined;
  return {
    detail: 'it has characters that no bearer token may have',
    remedy: 'use letters, digits and - . _ ~ + /, such as openssl rand -hex 32 gives',
  };
}

/** A token as the store keeps it. */
export function isToken(value: unknown): value is Token {
  if (!isRecord(value) || !ROLES.some((role) => role === value.role)) return false;
  const texts = ['name', 'hash', 'created', 'by'].every((field) => typeof value[field] === 'string');
  return texts && /^[0-9a-f]{64}$/.test(String(value.hash));
}
