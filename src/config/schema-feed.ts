/** One threat feed in the configuration. */
import { Type } from '@sinclair/typebox';
import { duration, Glob, ListName, size, words } from '../lib/schema-parts.js';
import { DURATION_PATTERN } from '../lib/units.js';

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

export const FeedSchema = Type.Object(
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
