/** The API, the stores, and what is read from the kernel. */
import type { Mutant } from './mutant.js';

const HISTORY = 'test/kernel/redis/history.test.ts';

export const OUTSIDE: readonly Mutant[] = [
  {
    id: 'api-import-role',
    what: 'a write token replaces all lists, modes and grants',
    file: 'src/api/list-routes.ts',
    from: "config: { role: 'admin' as const }, bodyLimit",
    to: "config: { role: 'write' as const }, bodyLimit",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'and nobody less' },
  },
  {
    id: 'api-export-role',
    what: 'a read token gets all lists, modes and grants',
    file: 'src/api/list-routes.ts',
    from: "schema: all, config: { role: 'admin', cost",
    to: "schema: all, config: { role: 'read', cost",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'GET /v1/export takes admin and nobody less' },
  },
  {
    id: 'api-forget-role',
    what: 'a write token forgets a host',
    file: 'src/api/service-routes.ts',
    from: "schema: forget, config: { role: 'admin' }",
    to: "schema: forget, config: { role: 'write' }",
    killedBy: {
      file: 'test/pure/api/roles.test.ts',
      test: 'DELETE /v1/nodes/:name takes admin and nobody less',
    },
  },
  {
    id: 'api-emergency-role',
    what: 'a write token pauses everything and lifts the lockdown',
    file: 'src/api/container-routes.ts',
    from: "role: 'admin'",
    to: "role: 'write'",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'takes admin and nobody less' },
  },
  {
    id: 'api-tokens-role',
    what: 'a write token makes tokens of admins',
    file: 'src/api/service-routes.ts',
    from: 'schema: create, config: { ...ADMIN, isSecret: true }',
    to: "schema: create, config: { role: 'write', isSecret: true }",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'POST /v1/tokens takes admin and nobody less' },
  },
  {
    id: 'api-teardown-role',
    what: 'a write token takes all rules away',
    file: 'src/api/service-routes.ts',
    from: "teardown', { schema, config: { role: 'admin' } }",
    to: "teardown', { schema, config: { role: 'write' } }",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'POST /v1/teardown takes admin and nobody less' },
  },
  {
    id: 'api-tokens-v6',
    what: 'wrong tokens count for one IPv6 address, not for its /64',
    file: 'src/api/auth.ts',
    from: '.slice(0, V6_GROUPS)',
    to: '',
    killedBy: {
      file: 'test/pure/api/auth-bad-tokens.test.ts',
      test: 'wrong tokens of one IPv6 network of 64 bits count together',
    },
  },
  {
    id: 'store-before-sync',
    what: 'the store acknowledges before its data is synced',
    file: 'src/store/store-files.ts',
    from: '      await writeAll(this.#handle, frame, this.#length);\n',
    to: '      void writeAll(this.#handle, frame, this.#length);\n',
    killedBy: {
      file: 'test/pure/store/embedded-store.test.ts',
      test: 'a write is acknowledged, shown and told only when its bytes are written and synced',
    },
  },
  {
    id: 'store-log-first',
    what: 'compaction replaces the log before the snapshot is synced',
    file: 'src/store/embedded-store.ts',
    from: `      const { snapshotPath, log } = this.#disk;
      const bytes = await writeSnapshot(`,
    to: `      const { snapshotPath, log } = this.#disk;
      await log.restart(this.#revision);
      const bytes = await writeSnapshot(`,
    killedBy: {
      file: 'test/pure/store/embedded-store.test.ts',
      test: 'the log is replaced only when the snapshot and its name are synced',
    },
  },
  {
    id: 'redis-lease-over',
    what: 'a lease that is over writes to Redis',
    file: 'src/store/redis-scripts.ts',
    from: 'return held ~= token or tonumber(untilMs) <= clock()',
    to: 'return held ~= token',
    killedBy: {
      file: 'test/kernel/redis/store.test.ts',
      test: 'a lease that is over writes nothing, though nobody has taken it',
    },
  },
  {
    id: 'redis-emptied',
    what: 'a change that meets an emptied or another Redis founds or changes a store there',
    file: 'src/store/redis-scripts.ts',
    from: "if (now[1] or '') ~= id then return {'moved'} end\n",
    to: '',
    killedBy: { file: HISTORY, test: 'a Redis that is another store takes no write of this host' },
  },
  {
    id: 'redis-set-back',
    what: 'a change is written to a Redis that was set back',
    file: 'src/store/redis-scripts.ts',
    from: "if isLast == '1' or not known or tonumber(known) ~= tonumber(have) then return",
    to: "if isLast == '1' then return",
    killedBy: { file: HISTORY, test: 'lacks the last batch of the host takes no write of this host' },
  },
  {
    id: 'redis-founded',
    what: 'a host without a copy founds a store in an emptied Redis before the others can put theirs back',
    file: 'src/store/redis-scripts.ts',
    from: "if redis.call('PUBLISH', channel .. '${HELD}', '') > 0 then return {'moved'} end",
    to: '',
    killedBy: { file: HISTORY, test: 'founds no store while one with a copy listens' },
  },
  {
    id: 'redis-other',
    what: 'another store in place of the known one is taken over, and the last good copy is dropped',
    file: 'src/store/redis-sync.ts',
    from: 'if (isForeign && survey.id !== this.#accepted) throw',
    to: 'if (isForeign && survey.id === this.#accepted) throw',
    killedBy: {
      file: 'test/kernel/redis/reunion.test.ts',
      test: 'is neither read nor written until a person accepts it',
    },
  },
  {
    id: 'redis-deletions',
    what: 'permissions that were deleted come back with a copy from before',
    file: 'src/store/redis-plan.ts',
    from: '    if (own === other || there.has(batchOf(own))) return false;\n    return here.has(batchOf(other)) || timeOf(own) > timeOf(other);',
    to: '    return true;',
    killedBy: {
      file: 'test/pure/store/redis.test.ts',
      test: 'what changed in Redis since they parted stands, what only the host saw change is restored',
    },
  },
  {
    id: 'redis-not-sent',
    what: 'a change that was not sent to Redis is reported as possibly made',
    file: 'src/store/redis-link.ts',
    from: ' && (redis.stream as Partial<Socket> | undefined)?.writable === true;',
    to: ';',
    killedBy: { file: HISTORY, test: 'the next ones are not said to be taken: they were not sent' },
  },
  {
    id: 'conntrack-mask',
    what: 'flows with bits of another tool in their mark are not found',
    file: 'src/kernel/netlink/conntrack-codec.ts',
    from: '(flow.mark & mark.mask) >>> 0 !== mark.value',
    to: 'flow.mark !== mark.value',
    killedBy: {
      file: 'test/kernel/netlink/conntrack.test.ts',
      test: 'flows are found by the bits of their mark that are asked for',
    },
  },
  {
    id: 'api-rates',
    what: 'a token may ask the API for as much as it likes',
    file: 'src/lib/token-buckets.ts',
    from: 'return wait > ROUNDING_MS ? wait : 0;',
    to: 'return wait > Number.MAX_VALUE ? wait : 0;',
    killedBy: {
      file: 'test/pure/api/request-limits.test.ts',
      test: 'a token that reads too much gets 429 with Retry-After',
    },
  },
  {
    id: 'api-silent-connections',
    what: 'connections that say nothing keep clients with a token out of the API',
    file: 'src/api/request-limits.ts',
    from: '    for (const oldest of open.unproven) {',
    to: '    for (const oldest of [] as Socket[]) {',
    killedBy: {
      file: 'test/pure/api/request-limits.test.ts',
      test: 'those that say nothing make way for a client with a token',
    },
  },
  {
    id: 'api-query',
    what: 'import?dryRun=1 imports',
    file: 'src/api/requests.ts',
    from: "part.httpPart === 'body' ? () => true : validate(part)",
    to: '(part.httpPart, () => true)',
    killedBy: { file: 'test/pure/api/requests.test.ts', test: 'import?dryRun=1 imports nothing' },
  },
];
