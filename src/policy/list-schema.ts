/** The shape of allowlists/NAME.yaml and of a list's body in the API: one definition for checks and for editors. */
import { Type } from '@sinclair/typebox';

const Port = Type.Union([
  Type.Integer({ minimum: 1, maximum: 65535 }),
  Type.String({ description: 'ports, such as 80,443 or 8000-8100' }),
]);
const Off = Type.Union([Type.Literal('off'), Type.Literal(false)]);

export const EntryObjectSchema = Type.Object(
  {
    to: Type.String({ description: 'a destination: name, address, container:NAME, host, any or list:NAME' }),
    ports: Type.Optional(Type.Union([Port, Type.Array(Port)])),
    proto: Type.Optional(
      Type.String({ pattern: '^(tcp|udp|tcp\\+udp|icmp|sctp|gre|esp|ip-\\d{1,3})$', examples: ['udp'] }),
    ),
    private: Type.Optional(Type.Boolean({ description: 'answers with private addresses are accepted' })),
    broad: Type.Optional(Type.Boolean({ description: 'allows a public suffix or a very wide network' })),
    tls: Type.Optional(Off),
    quic: Type.Optional(Type.Literal('deny')),
    dns: Type.Optional(Type.Literal('direct')),
    comment: Type.Optional(Type.String()),
    expires: Type.Optional(Type.String({ description: 'RFC 3339 UTC', examples: ['2030-12-31T23:59:59Z'] })),
  },
  { additionalProperties: false },
);

const ModeSchema = Type.Union([Type.Literal('enforce'), Type.Literal('observe'), Type.Literal('off')]);
const Pattern = Type.String({ minLength: 1, description: 'a glob: * matches any characters, ? matches one' });

export const ListSchema = Type.Object(
  {
    description: Type.Optional(Type.String()),
    hosts: Type.Optional(
      Type.Array(Pattern, {
        minItems: 1,
        description: 'globs of the hosts (node) where this list applies; missing: on all hosts',
        examples: [['web-*']],
      }),
    ),
    match: Type.Optional(
      Type.Object(
        {
          name: Type.Optional(Pattern),
          image: Type.Optional(Pattern),
          labels: Type.Optional(Type.Record(Type.String(), Pattern)),
          network: Type.Optional(Pattern),
        },
        {
          additionalProperties: false,
          minProperties: 1,
          description: 'containers that this list claims; all given fields must match',
          examples: [{ name: 'runner-*' }],
        },
      ),
    ),
    mode: Type.Optional(ModeSchema),
    allow: Type.Optional(
      Type.Array(Type.Union([Type.String(), EntryObjectSchema]), {
        description: 'entries, as text or as objects',
        examples: [['api.example.com']],
      }),
    ),
  },
  { additionalProperties: false, description: 'a Drawbridge allowlist' },
);
