/** Flows of a container are evaluated again when its signature changes: everything that can be revoked is part of it. */
import { expect, it } from 'vitest';
import { signatureOf } from '../../../src/enforce/revocation.js';
import type { Mode } from '../../../src/policy/policy.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { entriesOf, member } from '../ruleset/sample.js';

/** Of the same ports and protocol as all that is taken away: their class stays. */
const KEPT = '192.0.2.1:443';
const having = (m: Subject, more: Partial<Subject>): Subject => ({ ...m, ...more });
const whole = having(member(1, ''), { neighbours: ['10.0.0.3'] });
const withEntries = (text: string): Subject =>
  having(whole, {
    classes: planClasses(entriesOf(text), () => [{ family: 4, lo: 10n, hi: 10n }]),
  });
const mode = (to: Mode): Subject => having(whole, { policy: { ...whole.policy, mode: to } });
const quota = (spent: boolean): Subject =>
  having(whole, {
    limits: { quota: { name: 'q', bytes: 1, used: 0, spent, until: 0, reached: '' } },
  });

it.each<[string, Subject, Subject]>([
  ['a name', withEntries(`${KEPT}, a.org:443`), withEntries(KEPT)],
  ['an address', withEntries(`${KEPT}, 192.0.2.2:443`), withEntries(KEPT)],
  ['the end of a range', withEntries('10.0.0.1-10.0.0.9:443'), withEntries('10.0.0.1-10.0.0.8:443')],
  ['a neighbour by name', withEntries(`${KEPT}, container:db:443`), withEntries(KEPT)],
  ['the host', withEntries(`${KEPT}, host:443`), withEntries(KEPT)],
  ['any', withEntries(`${KEPT}, any:443`), withEntries(KEPT)],
  ['a port', withEntries('192.0.2.1:80,443'), withEntries('192.0.2.1:443')],
  ['a protocol', withEntries('192.0.2.1:443/tcp+udp'), withEntries('192.0.2.1:443/tcp')],
  ['dns=direct', withEntries('192.0.2.1:53/udp dns=direct'), withEntries('192.0.2.1:53/udp')],
  ['the neighbours of its project', whole, having(whole, { neighbours: [] })],
  ['freedom', mode('observe'), mode('enforce')],
  ['the rest of its quota', quota(false), quota(true)],
  ['a family', whole, having(whole, { families: new Set([4] as const) })],
  ['an address of its own', whole, having(whole, { veths: whole.veths.map(({ ip6: _, ...p }) => p) })],
  ['a veth', whole, having(whole, { veths: [] })],
])('%s', (_, before, after) => {
  expect(signatureOf(after)).not.toBe(signatureOf(before));
});

it('what takes nothing away leaves it: order, where an entry is from, what others may open to it', () => {
  expect(signatureOf(withEntries('a.org:80, b.org:443'))).toBe(
    signatureOf(withEntries('b.org:443, a.org:80')),
  );
  expect(signatureOf(having(whole, { published: [{ proto: 'tcp', port: 80 }] }))).toBe(signatureOf(whole));
});
