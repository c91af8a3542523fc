/** Checks of a configuration that a schema cannot express: names, addresses, and keys that depend on one another. */
import { canonicalName } from '../lib/dns-name.js';
import { parseServer } from '../lib/dns-server-address.js';
import { parseCidr } from '../lib/ip.js';
import { escapePointer } from '../lib/json.js';
import type { Problem } from '../lib/problem.js';
import { NAT64_BITS } from '../lib/special-use.js';
import { parseDuration } from '../lib/units.js';
import { parseEntry } from '../policy/entry-parse.js';
import { CHECK_NEEDS, MASK_NEEDS, splitMask } from '../policy/mark-mask.js';
import { isTokenName, tokenFault } from '../policy/token.js';
import { notifyFaults } from './endpoints.js';
import { feedFaults } from './feed-config.js';
import { readRedisUrl } from './redis-url.js';
import type { RawConfig } from './schema.js';
import { isOfTheKernel, UNIX } from './service-socket.js';

/** A zone names an interface of this host, which a configuration for a fleet cannot. */
const isUpstream = (text: string): boolean => parseServer(text)?.address.includes('%') === false;

function upstreams(list: readonly string[], pointer: string): readonly Problem[] {
  return list.flatMap((text, index) =>
    isUpstream(text)
      ? []
      : [
          {
            detail: `"${text}" is not the address of a resolver`,
            remedy: 'write 10.0.0.53 or [2001:db8::53]:53',
            pointer: `${pointer}/${index}`,
          },
        ],
  );
}

function zones({ dns }: RawConfig): readonly Problem[] {
  const seen = new Set<string>();
  return Object.entries(dns.zones).flatMap(([name, zone]) => {
    const pointer = `/dns/zones/${escapePointer(name)}`;
    const parsed = canonicalName(name, 1);
    const twice = parsed.ok && seen.has(parsed.value);
    if (parsed.ok) seen.add(parsed.value);
    return [
      ...(parsed.ok ? [] : parsed.problems.map((problem) => ({ ...problem, pointer }))),
      ...(twice
        ? [{ detail: `the zone ${name} is written twice`, remedy: 'keep one of the two', pointer }]
        : []),
      ...upstreams(zone.upstreams, `${pointer}/upstreams`),
    ];
  });
}

function ttls({ dns }: RawConfig): readonly Problem[] {
  const [min, max] = [parseDuration(dns.minTtl), parseDuration(dns.maxTtl)];
  if (!min.ok || !max.ok || min.value <= max.value) return [];
  return [
    {
      detail: `dns.minTtl ${dns.minTtl} is above dns.maxTtl ${dns.maxTtl}`,
      remedy: 'lower dns.minTtl, or raise dns.maxTtl',
      pointer: '/dns/minTtl',
    },
  ];
}

function exceptions({ threats }: RawConfig): readonly Problem[] {
  return threats.exceptions.flatMap(({ to }, index) => {
    const pointer = `/threats/exceptions/${index}/to`;
    const parsed = parseEntry(to);
    if (!parsed.ok) return parsed.problems.map((problem) => ({ ...problem, pointer }));
    const entry = parsed.value;
    const fits =
      entry.kind === 'dest' &&
      !entry.deny &&
      ['address', 'name'].includes(entry.target.kind) &&
      entry.ports.length === 0;
    if (fits) return [];
    return [
      {
        detail: `"${to}" is not an address or name`,
        remedy: 'write an address, a network or a name, without ports',
        pointer,
      },
    ];
  });
}

function translators({ networks }: RawConfig): readonly Problem[] {
  return networks.nat64.flatMap((text, index) => {
    const range = parseCidr(text);
    if (range?.family === 6 && text.endsWith(`/${NAT64_BITS}`)) return [];
    return [
      {
        detail: `"${text}" is not a prefix of a NAT64 translator that can be compared`,
        remedy: 'write an IPv6 network of 96 bits, such as 2001:db8:64::/96',
        pointer: `/networks/nat64/${index}`,
      },
    ];
  });
}

function listen({ api }: RawConfig): readonly Problem[] {
  if (api.listen.startsWith(UNIX)) return [];
  const pointer = '/api/listen';
  const problems: Problem[] = [];
  if (!parseServer(api.listen.replace(/^localhost:/, '127.0.0.1:')))
    problems.push({
      detail: `"${api.listen}" is not an address and port`,
      remedy: 'write 127.0.0.1:7070 or unix:/path',
      pointer,
    });
  return problems;
}

/** Prefixes under which others name their own chains, of which some would be the same. */
const OTHERS = ['DOCKER', 'KUBE', 'CALI', 'CNI', 'LIBVIRT'];

function kernel({ kernel: { markMask, prefix }, tls }: RawConfig): readonly Problem[] {
  const mask = {
    detail: `kernel.markMask 0x${markMask.toString(16)} is too small: ${MASK_NEEDS}`,
    remedy: 'write it like 0x7f003fff',
    pointer: '/kernel/markMask',
  };
  const short = {
    detail: `kernel.markMask 0x${markMask.toString(16)} is too small: ${CHECK_NEEDS}`,
    remedy: 'write it like 0x7f003fff, or set tls.verify: false',
    pointer: '/kernel/markMask',
  };
  const bits = splitMask(markMask);
  const hasCheck = !tls.verify || bits?.check !== undefined;
  const taken = {
    detail: `kernel.prefix ${prefix} is the beginning of the names of chains of another program`,
    remedy: 'use another prefix, such as DB',
    pointer: '/kernel/prefix',
  };
  return [...(bits ? (hasCheck ? [] : [short]) : [mask]), ...(OTHERS.includes(prefix) ? [taken] : [])];
}

function store({ store: { redis } }: RawConfig): readonly Problem[] {
  const parsed = redis === '' ? undefined : readRedisUrl(redis);
  if (!parsed || parsed.ok) return [];
  return parsed.problems.map(({ detail, remedy }) => ({
    detail: `store.redis: ${detail}`,
    remedy,
    pointer: '/store/redis',
  }));
}

const folder = ({ state }: RawConfig): readonly Problem[] =>
  isOfTheKernel(state)
    ? [
        {
          detail: `state: ${state} is in a file system of the kernel, which keeps no files`,
          remedy: 'name a folder on a disk, such as /var/lib/drawbridge',
          pointer: '/state',
        },
      ]
    : [];

function tokens({ api }: RawConfig): readonly Problem[] {
  return api.tokens.flatMap(({ name, token }, index) => {
    const pointer = `/api/tokens/${index}`;
    const fault = tokenFault(token);
    return [
      ...(isTokenName(name)
        ? []
        : [
            {
              detail: `"${name}" is not a name of a token`,
              remedy: 'write up to 63 characters: letters, digits, and _ . @ -',
              pointer: `${pointer}/name`,
            },
          ]),
      ...(fault ? [{ ...fault, pointer: `${pointer}/token` }] : []),
    ];
  });
}

function twice(items: readonly { readonly name: string }[], pointer: string): readonly Problem[] {
  return items.flatMap(({ name }, index) =>
    items.findIndex((item) => item.name === name) === index
      ? []
      : [
          {
            detail: `"${name}" is written twice`,
            remedy: 'give it another name',
            pointer: `${pointer}/${index}/name`,
          },
        ],
  );
}

/** Every problem of a configuration that fits the schema, each with its pointer. */
export function semanticProblems(raw: RawConfig): readonly Problem[] {
  return [
    ...upstreams(raw.dns.upstreams, '/dns/upstreams'),
    ...zones(raw),
    ...ttls(raw),
    ...exceptions(raw),
    ...translators(raw),
    ...listen(raw),
    ...kernel(raw),
    ...store(raw),
    ...folder(raw),
    ...tokens(raw),
    ...twice(raw.api.tokens, '/api/tokens'),
    ...twice(raw.threats.feeds, '/threats/feeds'),
    ...feedFaults(raw.threats.feeds),
    ...notifyFaults(raw.notify),
  ];
}
