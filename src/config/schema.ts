/** The whole configuration file (docs/configuration.md), with every default: one definition for checks and for editors. */
import { type Static, Type } from '@sinclair/typebox';
import { closed, duration, Glob, ListName, list, path, size, words } from '../lib/schema-parts.js';
import { DURATION_PATTERN } from '../lib/units.js';
import { NotifySchema, RECORD_KEYS } from './endpoints.js';
import { DEFAULT_LISTEN, DEFAULT_STATE, LISTEN_PATTERN } from './service-socket.js';

/** One threat feed in the configuration. */

const count = (description: string) => Type.Optional(Type.Integer({ minimum: 0, description }));
const share = (description: string) =>
  Type.Optional(Type.Number({ minimum: 0, maximum: 1, description, examples: [0.5] }));
const word = (description: string, example: string) =>
  Type.Optional(Type.String({ minLength: 1, description, examples: [example] }));

const Guards = Type.Object(
  {
    maxBadRatio: share('the largest share of malformed lines'),
    minEntries: count('the fewest entries; 0: the list may be empty'),
    maxEntries: count('the most entries'),
    maxShrink: share('the largest share of entries that may be missing in an update'),
    shrinkSlack: count('this many entries may be missing in an update, whatever the share'),
    maxGrowth: Type.Optional(
      Type.Number({ minimum: 1, description: 'how many times as large the list may become in an update' }),
    ),
    growthSlack: count('this many entries may be added in an update in addition to maxGrowth'),
    widest4: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 32, description: 'the shortest IPv4 prefix that is accepted' }),
    ),
    widest6: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 128, description: 'the shortest IPv6 prefix that is accepted' }),
    ),
    maxAddresses4: Type.Optional(
      Type.Number({ minimum: 0, description: 'the most IPv4 addresses that all lines may cover together' }),
    ),
    maxAddresses6: Type.Optional(
      Type.Number({ minimum: 0, description: 'the most IPv6 addresses that all lines may cover together' }),
    ),
  },
  { additionalProperties: false, description: 'limits for an update; an update beyond them is refused' },
);

const Header = Type.Object(
  {
    name: Type.String({
      pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
      description: 'the name of the header',
      examples: ['Auth-Key'],
    }),
    file: Type.String({
      pattern: '^/',
      description: 'the file with the secret, one line',
      examples: ['/etc/drawbridge/feed.key'],
    }),
    prefix: Type.Optional(Type.String({ description: 'the text before the secret', examples: ['Bearer '] })),
  },
  { additionalProperties: false, description: 'a header with a secret, sent to the origin of url only' },
);

const FeedSchema = Type.Object(
  {
    name: ListName,
    url: Type.String({
      pattern: '^(https?|file)://.+',
      description: 'the address of the feed',
      examples: ['https://…'],
    }),
    format: Type.String({
      pattern: '^[a-z0-9-]+$',
      default: 'auto',
      description: 'the format of the feed',
      examples: ['auto'],
    }),
    every: duration('1h', 'how often it is fetched'),
    minInterval: Type.Optional(
      Type.String({
        pattern: DURATION_PATTERN,
        description: 'the shortest time between two fetches; missing: every, and at most 5m',
        examples: ['5m'],
      }),
    ),
    action: words(['block', 'observe'], { default: 'block' }),
    direction: words(['outbound', 'inbound', 'both'], {
      default: 'both',
      description: 'which new flows are evaluated: those to listed addresses, those from them, or both',
    }),
    hosts: Type.Optional(
      Type.Array(Glob, {
        minItems: 1,
        description: 'globs of the hosts (node) where the feed applies; missing: on all hosts',
      }),
    ),
    column: Type.Optional(
      Type.Union([Type.String({ minLength: 1 }), Type.Integer({ minimum: 1 })], {
        description: 'csv and ndjson: the column, by name or number',
        examples: ['dst_ip'],
      }),
    ),
    delimiter: Type.Optional(
      Type.String({ minLength: 1, maxLength: 1, description: 'csv: one character', examples: [';'] }),
    ),
    minScore: count('ipsum: the number of lists that must name an address'),
    subdomains: Type.Optional(Type.Boolean({ description: 'names include all names below them' })),
    member: word('zip: the file in the archive', 'list.txt'),
    header: Type.Optional(Header),
    proxy: word('the HTTP proxy for the fetch', 'http://proxy.example:3128'),
    allowPrivate: Type.Boolean({ default: false, description: 'the server may have a private address' }),
    timeout: duration('1m', 'the longest time of a whole fetch'),
    maxSize: size('64MiB', 'the largest body as it is sent'),
    maxUnpacked: size('256MiB', 'the largest body after unpacking'),
    guards: Type.Optional(Guards),
  },
  { additionalProperties: false },
);

const Upstream = Type.String({
  minLength: 2,
  description: 'the address of a resolver, with its port if that is not 53',
  examples: ['10.0.0.53', '10.0.0.53:5353', '[2001:db8::53]:53'],
});
const Mode = (value: 'observe' | 'enforce') => words(['observe', 'enforce', 'off'], { default: value });

const Token = Type.Object(
  {
    name: Type.String({
      minLength: 1,
      description: 'the name of the holder, for the audit',
      examples: ['ci'],
    }),
    role: words(['read', 'write', 'admin']),
    token: Type.String({
      minLength: 16,
      description: 'the bearer token, or "sha256:" and its SHA-256 hash in hex',
      examples: ['sha256:…64 hex digits…'],
    }),
  },
  { additionalProperties: false },
);

const Zone = Type.Object(
  {
    upstreams: list(Upstream, 'resolvers of this zone; empty: dns.upstreams'),
    private: Type.Boolean({
      default: false,
      description: 'answers with private addresses are accepted in this zone',
    }),
  },
  { ...closed, examples: [{ upstreams: ['10.0.0.53'], private: true }] },
);

const Exception = Type.Object(
  {
    to: Type.String({
      minLength: 1,
      description: 'an address, a network, a range or a name',
      examples: ['192.0.2.7'],
    }),
    reason: Type.String({
      minLength: 1,
      description: 'why it is excepted from threats',
      examples: ['our own relay'],
    }),
  },
  { additionalProperties: false },
);

export const ConfigSchema = Type.Object(
  {
    docker: Type.Object({ socket: path('/var/run/docker.sock', "Docker's socket") }, closed),
    node: Type.String({
      pattern: '^[A-Za-z0-9_.-]{0,253}$',
      default: '',
      description: "this host's name in a fleet; empty: its hostname",
      examples: ['web-1'],
    }),
    default: Mode('observe'),
    baseline: list(ListName, 'lists that every container has'),
    unattributed: Type.Object(
      { mode: Mode('observe'), lists: list(ListName, 'lists for forwarded sources that are not containers') },
      closed,
    ),
    networks: Type.Object(
      {
        manage: list(Glob, 'networks that are managed', ['*']),
        ignore: list(Glob, 'networks that get no rules and no redirect of DNS'),
        nat64: list(
          Type.String({ minLength: 1, description: 'a prefix of 96 bits', examples: ['2001:db8:64::/96'] }),
          'prefixes of NAT64 translators, in addition to 64:ff9b::/96',
        ),
      },
      closed,
    ),
    eastWest: Type.Record(Type.String({ minLength: 1 }), words(['allow', 'policy']), {
      default: {},
      description:
        'by glob of networks: allow, or policy; default: allow within one Compose project, policy otherwise',
    }),
    allowlists: path('/etc/drawbridge/allowlists', 'the folder of list files'),
    state: path(DEFAULT_STATE, 'the folder of everything that must survive a restart'),
    store: Type.Object(
      {
        redis: Type.String({
          pattern: '^$|^(redis|rediss|redis\\+sentinel|redis\\+unix)://.+',
          default: '',
          description: 'the URL of a Redis; empty: the embedded store in state',
          examples: ['redis://127.0.0.1:6379'],
        }),
      },
      closed,
    ),
    api: Type.Object(
      {
        listen: Type.String({
          pattern: LISTEN_PATTERN,
          default: DEFAULT_LISTEN,
          description: 'a unix socket, or an address and port (which needs tokens)',
          examples: [DEFAULT_LISTEN, '127.0.0.1:7070'],
        }),
        tokens: list(Token, 'bearer tokens'),
      },
      closed,
    ),
    tls: Type.Object(
      {
        verify: Type.Boolean({
          default: true,
          description:
            'connections that only a name entry permits must name a permitted host: in the hello of TLS and QUIC, and in each request of HTTP',
        }),
        quic: words(['verify', 'deny'], {
          default: 'verify',
          description: 'udp/443 of name entries: checked as well, or denied',
        }),
        ports: Type.Array(Type.Integer({ minimum: 1, maximum: 65535 }), {
          minItems: 1,
          maxItems: 14,
          uniqueItems: true,
          default: [443],
          description: 'the ports on which name entries expect TLS and QUIC',
          examples: [[443, 8443]],
        }),
      },
      closed,
    ),
    dns: Type.Object(
      {
        upstreams: list(Upstream, 'resolvers; empty: those of the host'),
        zones: Type.Record(Type.String({ minLength: 1 }), Zone, {
          default: {},
          description: 'zone name to resolvers',
        }),
        minTtl: duration(
          '5s',
          'the TTL of records in replies, and the shortest time for which an address stays allowed',
        ),
        maxTtl: duration('1d', 'the longest time for which an answer is kept'),
        grace: duration('1h', 'how long an address stays allowed after its answer has expired'),
      },
      closed,
    ),
    labels: Type.Object(
      { trustImages: list(Glob, 'images whose own labels count like those of the container') },
      closed,
    ),
    deny: words(['reject', 'drop'], {
      default: 'reject',
      description: 'reject: a denied connection gets an error at once; drop: it gets no reply',
    }),
    failure: words(['closed', 'open'], {
      default: 'closed',
      description:
        'closed: while the service is not running, new containers reach nothing; open: they reach everything',
    }),
    threats: Type.Object(
      {
        maxEntries: Type.Integer({
          minimum: 0,
          maximum: 20_000_000,
          default: 2_000_000,
          description: 'the most entries of all feeds together',
          examples: [2_000_000],
        }),
        exceptions: list(Exception, 'destinations that are excepted from threats, with the reason'),
        catalogue: Type.Boolean({
          default: false,
          description: 'fetch the feeds of the catalogue whose terms have no conditions as well',
        }),
        feeds: list(FeedSchema, 'threat feeds'),
      },
      closed,
    ),
    flows: Type.Object(
      {
        keep: duration('7d', 'how long flows are kept'),
        maxSize: size('512MB', 'the most space that they take on disk'),
        ...RECORD_KEYS,
      },
      closed,
    ),
    canary: Type.Object(
      {
        every: duration(
          '1m',
          'how often a namespace tries a permitted and a forbidden address through the rules; 0: never',
        ),
        ready: Type.Boolean({
          default: false,
          description: '/readyz answers 200 only while the last try has shown that the rules work',
        }),
      },
      closed,
    ),
    notify: NotifySchema,
    log: Type.Object(
      {
        level: words(['trace', 'debug', 'info', 'warn', 'error', 'fatal'], { default: 'info' }),
        format: words(['json', 'text'], { default: 'json' }),
      },
      closed,
    ),
    kernel: Type.Object(
      {
        prefix: Type.String({
          pattern: '^[A-Z][A-Z0-9]{0,7}$',
          default: 'DB',
          description: 'the prefix of the names of the chains and sets of Drawbridge',
          examples: ['DB'],
        }),
        markMask: Type.Integer({
          minimum: 1,
          maximum: 0xffffffff,
          default: 0x7f003fff,
          description: 'the bits of the packet mark that Drawbridge uses',
          examples: ['0x7f003fff'],
        }),
        queues: Type.Array(Type.Integer({ minimum: 0, maximum: 65534 }), {
          minItems: 2,
          maxItems: 2,
          uniqueItems: true,
          default: [53, 54],
          description:
            'two NFQUEUE numbers: hold and inspection. Inspection of datagrams has the number after the larger one',
          examples: [[53, 54]],
        }),
        pastBridge: Type.Boolean({
          default: true,
          description:
            'hand packets of containers past the rules for frames, by a program of BPF, where no other program has rules there',
        }),
      },
      closed,
    ),
  },
  { ...closed, description: 'the configuration of Drawbridge' },
);

export type RawConfig = Static<typeof ConfigSchema>;
