/** The API, the stores, and what is read from the kernel. */
import type { Mutant } from './mutant.js';

export const OUTSIDE: readonly Mutant[] = [
  {
    id: 'api-import-role',
    what: 'a write token replaces all lists, modes and grants',
    file: 'src/api/routes/transfer.ts',
    from: "config: { role: 'admin' as const }, bodyLimit",
    to: "config: { role: 'write' as const }, bodyLimit",
    killedBy: { file: 'test/pure/api/roles.test.ts', test: 'and nobody less' },
  },
  {
    id: 'api-tokens-v6',
    what: 'wrong tokens count for one IPv6 address, not for its /64',
    file: 'src/api/bad-tokens.ts',
    from: '.slice(0, V6_GROUPS)',
    to: '',
    killedBy: {
      file: 'test/pure/api/bad-tokens.test.ts',
      test: 'wrong tokens of one IPv6 network of 64 bits count together',
    },
  },
  {
    id: 'store-before-sync',
    what: 'the store acknowledges before its data is synced',
    file: 'src/store/log-file.ts',
    from: '      await writeAll(this.#handle, frame, this.#length);\n      await this.#handle.datasync();\n',
    to: '      await writeAll(this.#handle, frame, this.#length);\n      void this.#handle.datasync();\n',
    killedBy: {
      file: 'test/pure/store/embedded.test.ts',
      test: 'a write is acknowledged, shown and told only when its bytes are written and synced',
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
];
