/** A remedy that is printed is true: applied as it stands, the destination is allowed; else it says that it cannot be. */
import { describe, expect, it } from 'vitest';
import { explain } from '../../../src/coverage/explain.js';
import type { ExplainInput, ExplainView } from '../../../src/coverage/explain-request.js';
import { nameMatches } from '../../../src/lib/dns-name.js';
import { isDest, parseEntry } from '../../../src/policy/entry-parse.js';
import { BROKEN_LABEL, type Mode, type PolicyNote } from '../../../src/policy/policy.js';
import { compile } from '../../../src/ruleset/compile.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { input, member, shape } from '../ruleset/sample.js';

const HOST = new Set(['192.0.2.2', '2001:db8::2', '172.18.0.254']);
const NONE = {
  blockedName: () => undefined,
  observedName: () => undefined,
  blockedAddress: () => undefined,
  observedAddress: () => undefined,
  blockedSource: () => undefined,
  observedSource: () => undefined,
};
const NEIGHBOUR = '172.18.0.9';
const [OWN, FORMER] = ['172.18.0.7', '172.18.0.8'];
const HOLDERS: Readonly<Record<string, ReturnType<ExplainInput['holderOf']>>> = {
  [OWN]: 'self',
  [FORMER]: 'none',
  [NEIGHBOUR]: { neighbour: 'db' },
};
const BEFORE = '198.51.100.1:80';

function explained(allow: string, to: string, mode: Mode = 'enforce', notes: PolicyNote[] = []): ExplainView {
  const plain = member(1, allow, mode);
  const m = { ...plain, policy: { ...plain.policy, notes } };
  const parsed = parseEntry(to);
  if (!parsed.ok || !isDest(parsed.value)) throw new Error(to);
  const named = (name: string) =>
    m.policy.entries.filter(({ entry: { target } }) => target.kind === 'name' && nameMatches(target, name));
  const judgeOf = (by: typeof m) => new PolicyEvaluator(shape, compile(input(by)), () => false, HOST);
  const enforced = { ...m, policy: { ...m.policy, mode: 'enforce' as const } };
  const questions: ExplainInput = {
    member: m,
    ...(mode === 'observe' && { enforced: { member: enforced, evaluator: judgeOf(enforced) } }),
    name: 'app',
    to,
    dest: parsed.value,
    evaluator: judgeOf(m),
    threats: NONE,
    decide: (name) => ({
      allow: named(name).length > 0,
      entries: named(name),
      sets: [],
      allowPrivate: false,
    }),
    resolvedFor: () => [],
    hostAddress: '172.18.0.254',
    holderOf: (address) => HOLDERS[address],
    former: ({ address }) => (address === FORMER ? { label: 'db', left: Date.now() - 4_000 } : undefined),
    neighbours: (name) => (name === 'db' ? [NEIGHBOUR] : []),
  };
  return explain(questions);
}

const COMMAND = /^drawbridge allow app (?:"([^"]+)"|(\S+)) --for 1h$/;
const entryOf = (remedy: string | null): string | undefined => {
  const [, quoted, plain] = COMMAND.exec(remedy ?? '') ?? [];
  return quoted ?? plain;
};

describe('the remedy of a denial, applied as it is printed, allows it', () => {
  it.each([
    'pastebin.com',
    'pastebin.com:8443',
    'pastebin.com:5000/udp',
    '203.0.113.9:25',
    '203.0.113.9',
    '203.0.113.0/24:443',
    '203.0.113.9:5000/udp',
    '203.0.113.9/icmp',
    '203.0.113.9/gre',
    '203.0.113.9:7/sctp',
    '10.9.8.7:5432',
    '[2001:db8:1::7]:443',
    '2001:db8:1::7/icmp',
    '8.8.8.8:53/udp',
    '8.8.8.8:53',
    '8.8.8.8:53/udp dns=direct',
    '[2001:db8:1::53]:53/udp',
    'host:9127',
    'host:8125/udp',
    '192.0.2.2:9127',
    '192.0.2.2:9127/udp',
    '192.0.2.2/icmp',
    '[2001:db8::2]:22',
    '172.18.0.254:9100',
    'container:db:5432',
    `${NEIGHBOUR}:5432`,
  ])('%s', (to) => {
    const before = explained(BEFORE, to);
    expect(before).toMatchObject({ verdict: 'deny', coverage: null });
    const entry = entryOf(before.remedy);
    expect(entry, String(before.remedy)).toBeDefined();
    expect(before.lasting).toContain(entry);
    // A container entry is resolved to its neighbours outside of what this test builds.
    const applied = entry?.startsWith('container:') ? `${NEIGHBOUR}:5432` : entry;
    expect(explained(`${BEFORE}, ${applied}`, to).verdict).toBe('allow');
  });
});

describe('what cannot be permitted has no command', () => {
  it.each(['host:53/udp', '192.0.2.2:53/udp', 'container:db:53', 'dns.google:53/udp', '172.18.0.254:53'])(
    '%s: port 53 that is no resolver outside',
    (to) => {
      const { verdict, remedy, lasting } = explained(BEFORE, to);
      expect(verdict).toBe('deny');
      expect(remedy).toMatch(/^this cannot be permitted: port 53/);
      expect(lasting).toBeNull();
      expect(explained(`${BEFORE}, ${to}`, to).verdict).toBe('deny');
    },
  );

  it.each([
    '169.254.169.254:80',
    '169.254.169.254',
    '169.254.0.0/16:80',
    '169.254.170.2:80',
    '100.100.100.200:80',
    '168.63.129.16:80',
    '192.0.0.192:80',
    '[fd00:ec2::254]:80',
    '[fd20:ce::254]:80',
    '[64:ff9b::a9fe:a9fe]:80',
    '169.254.169.254:53/udp',
    'metadata.google.internal:80',
  ])('%s: credentials of the host', (to) => {
    const { verdict, remedy, lasting, warning } = explained(BEFORE, to);
    expect(verdict).toBe('deny');
    expect(remedy).not.toMatch(/drawbridge allow/);
    expect(lasting).toBeNull();
    expect(warning).toMatch(/credentials/);
  });

  it('anything of a container with a label that does not parse', () => {
    const notes = [{ code: BROKEN_LABEL, detail: 'label drawbridge.alow is unknown', remedy: '' }] as const;
    expect(explained('', 'a.org', 'enforce', [...notes]).remedy).toMatch(/^correct the label/);
  });
});

it('a way past the filter of names says what it opens', () => {
  expect(explained(BEFORE, '8.8.8.8:53/udp')).toMatchObject({
    remedy: 'drawbridge allow app "8.8.8.8:53/udp dns=direct" --for 1h',
    warning: expect.stringMatching(/does not see the queries/),
  });
  expect(explained(BEFORE, '203.0.113.9:25').warning).toBeNull();
});

it('of an observed container it says why it passes now, and what enforce would do', () => {
  expect(explained('', 'pastebin.com', 'observe')).toMatchObject({
    verdict: 'allow',
    reason: expect.stringMatching(
      /only while app is in mode observe; enforce would deny it: no entry allows/,
    ),
    remedy: 'drawbridge allow app pastebin.com --for 1h',
  });
});

it('warns where anyone can receive data, permitted or not, and of a name of one customer', () => {
  const open = expect.stringMatching(/^anyone can receive data there: pastes /);
  expect(explained(BEFORE, 'pastebin.com')).toMatchObject({ verdict: 'deny', warning: open });
  expect(explained('pastebin.com', 'pastebin.com')).toMatchObject({ verdict: 'allow', warning: open });
  expect(explained(BEFORE, 'acme.blob.core.windows.net').warning).toMatch(
    /one customer of \*\.blob\.core\.windows\.net/,
  );
  expect(explained('api.github.com', 'api.github.com').warning).toBeNull();
  expect(explained('', '104.16.1.1:443').warning).toMatch(/^many parties have addresses there: Cloudflare/);
});

describe('an address in a network of Docker', () => {
  it('of the container itself is never offered', () =>
    expect(explained('', `${OWN}:5432`).remedy).toBe(
      'this is an address of app itself: nothing needs to be permitted',
    ));
  it('that no container has now is not offered, and whose it was is said', () => {
    const view = explained('', `${FORMER}:5432`);
    expect(view.remedy).toMatch(/^no container has this address now.*container:NAME:PORT$/);
    expect(view.reason).toMatch(
      /this was its address: db is being recreated, or was removed: it left .* 4s ago/,
    );
  });
  it('of a neighbour is offered as the neighbour', () =>
    expect(entryOf(explained('', `${NEIGHBOUR}:5432`).remedy)).toBe('container:db:5432'));
});
