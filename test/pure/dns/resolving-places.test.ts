/** Every place of the source that sends a name to a resolver, or connects to a name: a new one has to say why that name is permitted. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const SOURCE = join(import.meta.dirname, '..', '..', '..', 'src');
const files = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.ts'));

/** What sends. The name of each is found wherever it is used, but for imports, comments and its own declaration. */
const SENDERS: Readonly<Record<string, RegExp>> = {
  'the resolver with its cache': /(?<!\*.*)\bupstream\.resolve\(/g,
  'a question to servers': /#asked\.ask\(|\bnew UpstreamServers\(/g,
  'one exchange of DNS': /(?<!function )\b(exchangeUdp|exchangeTcp)\(/g,
  'a message of a client, unchanged': /(?<!function )(?<!\w)(relay|relayToAny)\((meant|to|server|this\.|$)/gm,
  'the resolver of the system': /from 'node:dns(\/promises)?'/g,
  'datagrams of its own': /(?<!function )(?<!\w)createSocket\(/g,
  'a client of HTTP': /\b(import\('undici'\)|from 'undici'|fetch\((?!\w+:)(?=['"`]))/g,
  'a connection to a host': /(?<!\w)(connect|createConnection)\(\{?(?!\)).*\bhost\b/g,
  'a client of Redis': /import \{.*\bRedis\b.*\} from 'ioredis'/g,
};

/** Each place, and why what it sends was permitted. */
const PLACES: Readonly<Record<string, string>> = {
  'dns/query-pipeline.ts: the resolver with its cache × 2':
    'a query of a container, and the record of a name that it has resolved: both after `decide` has said `forward`',
  'dns/published-keys.ts: the resolver with its cache':
    'after `mayQuery`, which is `decide` for the container and its name; targets of aliases are chosen by the zone of a permitted name',
  'dns/upstream.ts: a question to servers × 2':
    'of `resolve`; the end of a CNAME chain is chosen by the zone of a permitted name',
  'dns/upstream-servers.ts: one exchange of DNS × 3': 'of `ask`',
  'dns/exchange.ts: one exchange of DNS': 'of `relay`',
  'dns/exchange.ts: a connection to a host': 'of `exchangeTcp` and `relay`: to the address of a resolver',
  'dns/exchange.ts: a message of a client, unchanged': '`relayToAny` calls `relay`',
  'dns/passthrough.ts: a message of a client, unchanged × 3':
    'of containers that are not enforced; of enforced ones to a resolver that they may reach themselves (dns=direct)',
  'dns/exchange.ts: datagrams of its own × 2': 'of `exchangeUdp` and `relay`',
  'dns/dns-server.ts: datagrams of its own': 'the sockets that answer clients',
  'threats/fetch-http.ts: the resolver of the system':
    'hosts of feeds: of the configuration, and of redirects of their servers',
  'threats/fetch-http.ts: a client of HTTP': 'the same',
  'threats/fetch.ts: a client of HTTP': 'its errors',
  'notify/receiver.ts: a client of HTTP': 'receivers of the configuration, without redirects',
  'notify/record-sinks.ts: datagrams of its own': 'syslog receivers of the configuration',
  'notify/record-sinks.ts: a connection to a host × 2': 'the same',
  'kernel/cgroups.ts: datagrams of its own': 'tells which cgroup a socket has; sends nothing',
  'store/redis-link.ts: a client of Redis': 'the server of the configuration',
  'store/redis-checks.ts: a client of Redis': 'the same',
  'ops/self-test.ts: datagrams of its own': 'between namespaces that the test makes',
};

const withoutComments = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');

it('each place that resolves a name is known, with the reason why the name is permitted', () => {
  const found = files.flatMap((file) => {
    const text = withoutComments(readFileSync(join(SOURCE, file), 'utf8'));
    return Object.entries(SENDERS).flatMap(([what, pattern]) => {
      const count = text.match(pattern)?.length ?? 0;
      return count === 0 ? [] : [`${file}: ${what}${count > 1 ? ` × ${count}` : ''}`];
    });
  });
  expect(found.toSorted()).toEqual(Object.keys(PLACES).toSorted());
});
