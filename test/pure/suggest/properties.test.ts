/** For any record: what is suggested parses, permits all that it covers by the rules that would be installed, and nothing else is in it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { parseListFile } from '../../../src/config/list-files.js';
import type { SeenDestination } from '../../../src/flows/flow-record.js';
import { nameMatches } from '../../../src/lib/dns-name.js';
import { permitsEntry } from '../../../src/policy/deny-entries.js';
import type { DestEntry } from '../../../src/policy/entry.js';
import { isDest, parseEntries, parseEntry } from '../../../src/policy/entry-parse.js';
import { Gathering } from '../../../src/policy/gathering.js';
import { readLabels } from '../../../src/policy/labels.js';
import type { PolicyEntry } from '../../../src/policy/policy.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { type Suggestion, suggest } from '../../../src/suggest/suggest.js';
import { suggestedEntries, suggestionText } from '../../../src/suggest/suggestion-text.js';
import { input, member, shape } from '../ruleset/sample.js';
import { DAY, inputOf, NOW, policy, SHIPPED, seen } from './sample.js';

const NAMES = [
  'a.example.com',
  'b1.cdn.example.com',
  'b2.cdn.example.com',
  'b3.cdn.example.com',
  'b4.cdn.example.com',
  'x1.github.io',
  'x2.github.io',
  'x3.github.io',
  'github.com',
  'api.github.com',
  'codeload.github.com',
  'gist.github.com',
  'registry.npmjs.org',
  'nodejs.org',
  'pypi.org',
  'files.pythonhosted.org',
  'pastebin.com',
  'bucket.s3.eu-west-1.amazonaws.com',
  'storage.googleapis.com',
];
const ADDRESSES = ['10.0.0.5', '10.0.0.6', '192.0.2.9', '2001:db8::9'];
const POLICIES = [
  '',
  'a.example.com',
  '*.example.com',
  '*.cdn.example.com:443',
  '10.0.0.0/8',
  'any:443',
  '!*.example.com',
  'pastebin.com:8443',
];

const row = fc
  .record({
    to: fc.constantFrom(...NAMES, ...ADDRESSES),
    port: fc.constantFrom(22, 80, 443, 444, 8443),
    proto: fc.constantFrom('tcp', 'tcp', 'tcp', 'udp', 'icmp', 'dns', '47'),
    verdict: fc.constantFrom(
      'allow' as const,
      'deny' as const,
      'would-deny' as const,
      'would-deny' as const,
      'threat' as const,
    ),
    address: fc.constantFrom('203.0.113.1', '203.0.113.2'),
    count: fc.constantFrom(1, 2, 40),
    starts: fc.integer({ min: 1, max: 17 }),
    ago: fc.integer({ min: 0, max: 9 }),
    known: fc.boolean(),
  })
  .filter(({ to, proto }) => proto !== 'dns' || /[a-z]/.test(to.replace('2001:db8::9', '')))
  .map(({ to, port, proto, ago, address, known, ...more }): SeenDestination => {
    const isAddress = ADDRESSES.includes(to);
    const text = to.includes(':') ? `[${to}]` : to;
    const at = isAddress ? {} : { address: proto === 'dns' ? '' : address };
    const last = NOW - ago * DAY;
    return seen(`${text}${proto === 'tcp' || proto === 'udp' ? `:${port}` : ''}/${proto}`, {
      ...more,
      ...at,
      last,
      first: last - DAY,
      known: known && ago === 3,
    });
  });
const rows = fc.array(row, { maxLength: 40 });
const present = fc.subarray(POLICIES).map((parts) => policy(parts.filter((p) => p !== '').join(', ')));
const options = fc.record({ includeDenied: fc.boolean(), unusedMs: fc.constant(30 * DAY) });
const inputs = fc
  .tuple(rows, present, options)
  .map(([all, own, how]) => inputOf(all, { policy: own, options: how }));

const RUNS = { numRuns: 100 };

/** The text as it is after the "#" of one commented entry was taken away, for each of them. */
const commented = (text: string): string[] =>
  [...text.matchAll(/^( +)# ((?:- )?)(?=\S+(?: \S+)? {3}# )/gm)].map(
    ({ 0: whole, 1: indent, 2: item, index }) =>
      `${text.slice(0, index)}${indent}${item}${text.slice(index + whole.length)}`,
  );

/** The entries of a text, those of lists included, as a container would have them. */
function policyOf(texts: readonly string[]): { entries: PolicyEntry[]; denied: PolicyEntry[] } {
  const gathering = new Gathering(SHIPPED, NOW);
  for (const text of texts) {
    const parsed = parseEntry(text);
    if (!parsed.ok) throw new Error(`${text}: ${JSON.stringify(parsed.problems)}`);
    gathering.addEntry(parsed.value, { kind: 'label' }, (list) => ({ kind: 'list', name: list }));
  }
  return gathering;
}

/** By the rules for an address, and for a name by the ports of the classes that its entries have. */
function permitsByRules(entries: readonly PolicyEntry[], one: SeenDestination): boolean {
  const m = { ...member(7, 'host:1'), classes: planClasses([...entries], () => []) };
  const proto =
    one.proto === 'tcp' || one.proto === 'udp' || one.proto === 'icmp' ? one.proto : Number(one.proto);
  if (one.name !== null) {
    const { name } = one;
    return m.classes.some(
      (c) =>
        (c.proto === proto || c.proto === Number(one.proto)) &&
        (c.ports.length === 0 || c.ports.some((p) => p.lo <= one.port && one.port <= p.hi)) &&
        c.names.some(({ entry }) => entry.target.kind === 'name' && nameMatches(entry.target, name)),
    );
  }
  const evaluator = new PolicyEvaluator(shape, compile(input(m)), () => false, new Set());
  const family = one.address.includes(':') ? 6 : 4;
  return evaluator.permits(
    evaluator.sentBy(m, {
      family,
      proto,
      src: (family === 4 ? m.veths[0]?.ip4 : m.veths[0]?.ip6) ?? '',
      dst: one.address,
      states: ['NEW'],
      syn: proto === 'tcp',
      ...(proto === 'icmp' ? { echo: true } : one.port > 0 ? { dport: one.port } : {}),
    }),
  );
}

const dest = (text: string): DestEntry | undefined => {
  const parsed = parseEntry(text);
  return parsed.ok && isDest(parsed.value) ? parsed.value : undefined;
};

/** With its own port, as the place of the row has its target. */
function exact(one: SeenDestination): DestEntry | undefined {
  const target = one.name ?? (one.address.includes(':') ? `[${one.address}]` : one.address);
  const proto = one.proto === '47' ? 'gre' : one.proto;
  if (one.port === 0) return dest(`${target.replace(/[[\]]/g, '')}/${proto}`);
  return dest(`${target}:${one.port}${proto === 'tcp' ? '' : `/${proto}`}`);
}

const isLeft = (s: Suggestion, wanted: DestEntry): boolean =>
  s.left.some(({ entry }) => {
    const left = dest(entry);
    return left !== undefined && permitsEntry(left, wanted);
  });

describe('any suggestion', () => {
  it('parses as a list, as labels and as a Compose file, and is the same for the same record in any order', () => {
    fc.assert(
      fc.property(inputs, (given) => {
        const found = suggest(given);
        const yaml = suggestionText('web', [found], 'yaml');
        const list = parseListFile('web.yaml', yaml);
        expect(list, yaml).toMatchObject({ ok: true });
        if (list.ok) expect(list.value.allow.map((e) => e.canonical)).toEqual(suggestedEntries([found]));

        const all = suggestionText('web', [found], 'label').trimEnd().split('\n');
        for (const line of all.filter((text) => !text.startsWith('#'))) {
          const [key = '', value = ''] = line.split(/=(.*)/s);
          if (key === 'drawbridge.allow') {
            const parsed = parseEntries(value);
            expect(parsed.ok && parsed.value.map((e) => e.canonical)).toEqual(
              found.entries.map((e) => e.entry),
            );
          } else expect(['drawbridge.lists', 'drawbridge.mode']).toContain(key);
        }

        const compose = parse(suggestionText('web', [found], 'compose'));
        const labels: Record<string, string> = compose.services.web.labels;
        const intent = readLabels({ ...FACTS, labels }, []);
        expect(intent.broken).toBe(false);
        expect(intent.allow.map((e) => e.canonical)).toEqual(found.entries.map((e) => e.entry));
        expect(intent.lists).toEqual(found.lists.map((l) => l.list));

        expect(intent.mode === 'observe', compose).toBe(found.reachesNothing);
        for (const text of commented(suggestionText('web', [found], 'compose')))
          expect(readLabels({ ...FACTS, labels: parse(text).services.web.labels }, []).broken, text).toBe(
            false,
          );
        for (const text of commented(yaml))
          expect(parseListFile('web.yaml', text), text).toMatchObject({ ok: true });

        const order = given.record.seen.map((_, i) => i).reverse();
        const shuffled = {
          ...given,
          record: { ...given.record, seen: order.flatMap((i) => given.record.seen[i] ?? []) },
          places: order.flatMap((i) => given.places[i] ?? []),
        };
        expect(JSON.stringify(suggest(shuffled))).toBe(JSON.stringify(found));
      }),
      RUNS,
    );
  });

  it('permits by the rules what it covers, and has nothing that is not used', () => {
    fc.assert(
      fc.property(inputs, (given) => {
        const found = suggest(given);
        const { entries, denied } = policyOf(suggestedEntries([found]));
        const used = given.record.seen.filter((one) => one.proto !== 'dns' && one.verdict !== 'threat');
        for (const one of used) {
          const wanted = exact(one);
          if (!wanted || isLeft(found, wanted)) continue;
          const isNamed = given.record.seen.some((r) => r.name !== null && r.address === one.address);
          if (one.name === null && isNamed) continue;
          expect(
            permitsByRules(entries, one),
            `${wanted.canonical} by ${JSON.stringify(suggestedEntries([found]))}`,
          ).toBe(true);
        }
        // Deny entries stay.
        expect(denied.map((d) => d.entry.canonical)).toEqual(
          given.policy?.denied.map((d) => d.entry.canonical),
        );

        const own = new Set(
          [...(given.policy?.entries ?? []), ...(given.policy?.denied ?? [])].map((p) => p.entry.canonical),
        );
        const fresh = found.entries.filter(({ entry }) => !own.has(entry));
        for (const { entry, count, risk } of fresh) {
          const made = dest(entry);
          expect(made).toBeDefined();
          expect(count).toBeGreaterThan(0);
          expect(risk).toBeNull();
          if (!made) continue;
          expect(
            given.record.seen.some((one) => {
              const wanted = exact(one);
              return one.verdict !== 'threat' && wanted !== undefined && permitsEntry(made, wanted);
            }),
            entry,
          ).toBe(true);
          if (made.target.kind === 'name' && made.target.match !== 'exact')
            expect(entry).toMatch(/^\*\.cdn\.example\.com/);
          // What is left out for a reason is not opened by the way.
          for (const left of found.left) {
            const refused = dest(left.entry);
            if (refused) expect(permitsEntry(made, refused), `${entry} and ${left.entry}`).toBe(false);
          }
        }
        for (const { covers } of found.lists) expect(covers.length).toBeGreaterThan(1);
      }),
      RUNS,
    );
  });
});

const FACTS = {
  labels: {},
  imageLabels: {},
  imageId: 'sha256:x',
  image: 'x',
  name: 'web',
} as unknown as Parameters<typeof readLabels>[0];
