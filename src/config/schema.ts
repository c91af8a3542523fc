/** The whole configuration file (spec: configuration), with every default: one definition for checks and for editors. */
import { Type } from '@sinclair/typebox';
import { FeedSchema } from './schema-feed.js';
import { closed, duration, Glob, ListName, list, path, size, words } from './schema-parts.js';

const Upstream = Type.String({
  minLength: 2,
  description: 'a resolver: its address, with its port where that is not 53',
  examples: ['10.0.0.53', '10.0.0.53:5353', '[2001:db8::53]:53'],
});
const Mode = (value: 'observe' | 'enforce') => words(['observe', 'enforce', 'off'], { default: value });

const Token = Type.Object(
  {
    name: Type.String({ minLength: 1, description: 'who holds it, for the audit', examples: ['ci'] }),
    role: words(['read', 'write', 'admin']),
    token: Type.String({
      minLength: 16,
      description: 'the bearer token, or "sha256:" and its hash in hex',
      examples: ['sha256:…64 hex digits…'],
    }),
  },
  { additionalProperties: false },
);

const Zone = Type.Object(
  {
    upstreams: list(Upstream, 'resolvers of this zone; empty: those of dns.upstreams'),
    private: Type.Boolean({ default: false, description: 'answers in private space are good in this zone' }),
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
    reason: Type.String({ minLength: 1, description: 'why it beats a threat', examples: ['our own relay'] }),
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
      { mode: Mode('observe'), lists: list(ListName, 'lists of forwarded sources that are no container') },
      closed,
    ),
    networks: Type.Object(
      {
        manage: list(Glob, 'networks that are managed', ['*']),
        ignore: list(Glob, 'networks that get no rule and no redirect'),
        nat64: list(
          Type.String({ minLength: 1, description: 'a prefix of 96 bits', examples: ['2001:db8:64::/96'] }),
          'prefixes of NAT64 translators, beside 64:ff9b::/96',
        ),
      },
      closed,
    ),
    eastWest: Type.Record(Type.String({ minLength: 1 }), words(['allow', 'policy']), {
      default: {},
      description: 'network glob to allow or policy; default: allow within one compose project, policy else',
    }),
    allowlists: path('/etc/drawbridge/allowlists', 'the folder of list files'),
    state: path('/var/lib/drawbridge', 'what must outlive a restart'),
    store: Type.Object(
      {
        redis: Type.String({
          pattern: '^$|^(redis|rediss|redis\\+sentinel|redis\\+unix)://.+',
          default: '',
          description: 'empty: the embedded store in state',
          examples: ['redis://127.0.0.1:6379'],
        }),
      },
      closed,
    ),
    api: Type.Object(
      {
        listen: Type.String({
          pattern: '^(unix:/.+|\\[[0-9a-fA-F:]+\\]:\\d{1,5}|[^:\\s]+:\\d{1,5})$',
          default: 'unix:/run/drawbridge/api.sock',
          description: 'a unix socket, or an address and port (then tokens are needed)',
          examples: ['unix:/run/drawbridge/api.sock', '127.0.0.1:7070'],
        }),
        tokens: list(Token, 'bearer tokens'),
      },
      closed,
    ),
    dns: Type.Object(
      {
        upstreams: list(Upstream, "resolvers; empty: the host's own"),
        zones: Type.Record(Type.String({ minLength: 1 }), Zone, {
          default: {},
          description: 'zone name to resolvers',
        }),
        minTtl: duration('5s', 'answers live at least so long here'),
        maxTtl: duration('1d', 'and at most so long'),
        grace: duration('1h', 'how long an address outlives its answer'),
      },
      closed,
    ),
    labels: Type.Object({ trustImages: list(Glob, 'images whose own labels count in full') }, closed),
    deny: words(['reject', 'drop'], { default: 'reject', description: 'a fast error, or silence' }),
    failure: words(['closed', 'open'], {
      default: 'closed',
      description: 'what holds while the controller is away',
    }),
    threats: Type.Object(
      {
        maxEntries: Type.Integer({
          minimum: 0,
          maximum: 20_000_000,
          default: 2_000_000,
          description: 'a count',
          examples: [2_000_000],
        }),
        exceptions: list(Exception, 'what beats a threat, and why'),
        catalogue: Type.Boolean({
          default: false,
          description: 'fetch the feeds of the catalogue whose terms ask nothing of anybody, too',
        }),
        feeds: list(FeedSchema, 'feeds of threats'),
      },
      closed,
    ),
    flows: Type.Object(
      {
        keep: duration('7d', 'how long flows are kept'),
        maxSize: size('512MB', 'the most that they take on disk'),
      },
      closed,
    ),
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
          description: 'begins the names of our chains and sets',
          examples: ['DB'],
        }),
        markMask: Type.Integer({
          minimum: 1,
          maximum: 0xffffffff,
          default: 0x7f003fff,
          description: 'bits of the packet mark that are ours',
          examples: ['0x7f003fff'],
        }),
        queues: Type.Array(Type.Integer({ minimum: 0, maximum: 65535 }), {
          minItems: 2,
          maxItems: 2,
          uniqueItems: true,
          default: [53, 54],
          description: 'two NFQUEUE numbers: hold and inspection',
          examples: [[53, 54]],
        }),
      },
      closed,
    ),
  },
  { ...closed, description: 'the configuration of Drawbridge' },
);
