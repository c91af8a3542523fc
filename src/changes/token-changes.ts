import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { orNearest, refuse, refuseInvalid } from '../lib/problem.js';
import { HASHED, isTokenName, type Role, type Token } from '../policy/token.js';
import type { Committer } from './commit.js';
import { type ChangesState, tokenKey } from './stored-state.js';

export interface TokenChangeOptions {
  readonly state: ChangesState;
  readonly committer: Committer;
  /** Those of the configuration. */
  readonly configured: readonly { readonly name: string; readonly role: Role; readonly token: string }[];
  /** ms since the epoch. */
  now(): number;
}

const SECRET_BYTES = 32;
/** So that a token that was left somewhere is recognised as one (by secret scanners, too). */
const PREFIX = 'drawbridge_';

type Configured = TokenChangeOptions['configured'];

export const configuredTokens = (tokens: Configured): readonly Token[] =>
  tokens.map(({ name, role, token }) => ({ name, role, hash: HASHED.exec(token)?.[1] ?? hashOf(token) }));

/**
 * Returns the token with this secret. Hashes of secrets with 256 random bits are compared, so that the time reveals nothing of a
 * secret.
 */
export function holderOf(tokens: readonly Token[], secret: string): Token | undefined {
  const hash = Buffer.from(hashOf(secret));
  let found: Token | undefined;
  for (const token of tokens) if (timingSafeEqual(Buffer.from(token.hash), hash)) found = token;
  return found;
}

const hashOf = (secret: string): string => createHash('sha256').update(secret).digest('hex');

/** Tokens of the API, in the configuration and the store. A secret is shown once, when it is made. */
export class TokenChanges {
  readonly #o: TokenChangeOptions;
  readonly #configured: readonly Token[];

  constructor(options: TokenChangeOptions) {
    this.#o = options;
    this.#configured = configuredTokens(options.configured);
  }

  /** All tokens by name, including expired ones until they are revoked or created again. */
  list(): readonly Token[] {
    const stored = [...this.#o.state.tokens.values()].map((t) => t.value);
    return [...this.#configured, ...stored].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Tokens that open the API now. */
  get count(): number {
    return this.list().filter((token) => this.#isInForce(token)).length;
  }

  authenticate(secret: string): Token | undefined {
    const found = holderOf(this.list(), secret);
    return found && this.#isInForce(found) ? found : undefined;
  }

  /** `forMs` undefined: without end. */
  async create(
    name: string,
    role: Role,
    forMs: number | undefined,
    who: string,
  ): Promise<{ readonly token: Token; readonly secret: string }> {
    if (!isTokenName(name)) refuseName(name);
    return this.#o.committer.serial(tokenKey(name), async () => {
      if (this.list().some((token) => token.name === name && this.#isInForce(token)))
        refuse(
          'conflict',
          `there is a token ${name} already`,
          `take another name, or drawbridge tokens revoke ${name}`,
        );
      const secret = `${PREFIX}${randomBytes(SECRET_BYTES).toString('base64url')}`;
      const now = this.#o.now();
      const expires = forMs === undefined ? {} : { expires: new Date(now + forMs).toISOString() };
      const created = new Date(now).toISOString();
      const token: Token = { name, role, hash: hashOf(secret), created, ...expires, by: who };
      await this.#commit(token, name, 'token.create', who);
      return { token, secret };
    });
  }

  async revoke(name: string, who: string): Promise<void> {
    await this.#o.committer.serial(tokenKey(name), async () => {
      if (this.#configured.some((token) => token.name === name))
        refuse(
          'read-only',
          `the token ${name} is one of the configuration`,
          'take it out of api.tokens, and reload',
        );
      if (!this.#o.state.tokens.has(name))
        refuse(
          'not-found',
          `there is no token ${name}`,
          orNearest(name, [...this.#o.state.tokens.keys()], 'see drawbridge tokens list'),
        );
      await this.#commit(undefined, name, 'token.revoke', who);
    });
  }

  #isInForce(token: Token): boolean {
    const { state, now } = this.#o;
    return (
      token.created === undefined ||
      state.deadlines.isInForce(tokenKey(token.name), { ...token, created: token.created }, now())
    );
  }

  /** In force as soon as it is stored: no rule of the kernel's depends on it. */
  #commit(after: Token | undefined, name: string, action: string, who: string): Promise<void> {
    const before = this.#o.state.tokens.get(name)?.value;
    const recorded = { before: before && withoutHash(before), after: after && withoutHash(after) };
    return this.#o.committer.store({
      key: tokenKey(name),
      before,
      after,
      recorded,
      who,
      action,
      target: name,
    });
  }
}

function withoutHash({ hash: _, ...rest }: Token): Omit<Token, 'hash'> {
  return rest;
}

function refuseName(name: string): never {
  return refuseInvalid([
    {
      detail: `"${name}" is not a name for a token`,
      remedy: 'use letters, digits, "-", "_", "." and "@", at most 63',
      pointer: '/name',
    },
  ]);
}
