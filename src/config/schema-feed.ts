/** One feed of threats as the configuration says it. */
import { Type } from '@sinclair/typebox';
import { DURATION_PATTERN } from '../model/units.js';
import { duration, Glob, ListName, size, words } from './schema-parts.js';

const count = (description: string) => Type.Optional(Type.Integer({ minimum: 0, description }));
const share = (description: string) =>
  Type.Optional(Type.Number({ minimum: 0, maximum: 1, description, examples: [0.5] }));
const word = (description: string, example: string) =>
  Type.Optional(Type.String({ minLength: 1, description, examples: [example] }));

const Guards = Type.Object(
  {
    maxBadRatio: share('malformed lines among all'),
    minEntries: count('fewest entries; 0: the list may be empty'),
    maxEntries: count('most entries'),
    maxShrink: share('share that may vanish at once'),
    shrinkSlack: count('so many may vanish from a list of any size'),
    maxGrowth: Type.Optional(Type.Number({ minimum: 1, description: 'how many times as big it may become' })),
    growthSlack: count('beyond so many entries'),
    widest4: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 32, description: 'shortest IPv4 prefix taken' }),
    ),
    widest6: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 128, description: 'shortest IPv6 prefix taken' }),
    ),
    maxAddresses4: Type.Optional(
      Type.Number({ minimum: 0, description: 'IPv4 addresses that all lines may cover' }),
    ),
    maxAddresses6: Type.Optional(
      Type.Number({ minimum: 0, description: 'IPv6 addresses that all lines may cover' }),
    ),
  },
  { additionalProperties: false, description: 'limits that an update must keep to' },
);

const Header = Type.Object(
  {
    name: Type.String({
      pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
      description: 'of a header',
      examples: ['Auth-Key'],
    }),
    file: Type.String({
      pattern: '^/',
      description: 'the file that holds the secret, one line',
      examples: ['/etc/drawbridge/feed.key'],
    }),
    prefix: Type.Optional(
      Type.String({ description: 'what stands before the secret', examples: ['Bearer '] }),
    ),
  },
  { additionalProperties: false, description: 'a header with a secret, sent to the origin of url only' },
);

export const FeedSchema = Type.Object(
  {
    name: ListName,
    url: Type.String({
      pattern: '^(https?|file)://.+',
      description: 'where the feed is',
      examples: ['https://…'],
    }),
    format: Type.String({
      pattern: '^[a-z0-9-]+$',
      default: 'auto',
      description: 'its format',
      examples: ['auto'],
    }),
    every: duration('1h', 'how often it is fetched'),
    minInterval: Type.Optional(
      Type.String({
        pattern: DURATION_PATTERN,
        description: 'no two fetches are closer; left out: every, and 5m at most',
        examples: ['5m'],
      }),
    ),
    action: words(['block', 'observe'], { default: 'block' }),
    direction: words(['outbound', 'inbound', 'both'], {
      default: 'both',
      description: 'which new flows it judges: those to what it lists, those from there, or both',
    }),
    hosts: Type.Optional(
      Type.Array(Glob, {
        minItems: 1,
        description: 'globs of the hosts (node) where it counts; left out: all',
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
    minScore: count('ipsum: the fewest lists that must agree'),
    subdomains: Type.Optional(Type.Boolean({ description: 'names stand for all below them, too' })),
    member: word('zip: the file within', 'list.txt'),
    header: Type.Optional(Header),
    proxy: word('an HTTP proxy', 'http://proxy.example:3128'),
    allowPrivate: Type.Boolean({ default: false, description: 'its server may be in private space' }),
    timeout: duration('1m', 'for a whole fetch'),
    maxSize: size('64MiB', 'of the body as it is sent'),
    maxUnpacked: size('256MiB', 'of the body once it is unpacked'),
    guards: Type.Optional(Guards),
  },
  { additionalProperties: false },
);
