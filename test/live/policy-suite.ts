/** The whole of an entry's meaning, tried on a real engine: once for each way that names are asked, on each kind of network. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { shownHere } from '../attacks/report.js';
import type { ProbeResult, RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { listener, probeAll } from './inside.js';
import {
  addresses,
  type Case,
  type Denied,
  type Inside,
  insideCases,
  LISTS,
  lists,
  names,
  outcome,
  type Probe,
  ZONE,
  ZONES,
} from './policy-cases.js';
import { dnsTests, type Rotation, rotate } from './policy-dns.js';
import { inParallel } from './support.js';

const AT_ONCE = 3;
/** The client's own time-out, and how long a denial may take at most: the machine may be busy. */
const TIMEOUT_MS = 12_000;
const FAST_MS = 5_000;
export type Dns = 'direct' | 'loopback';
export interface Place {
  readonly lab: Lab;
  readonly network: string;
  readonly dns: Dns;
  drawbridge(): Drawbridge;
  inside(): Inside;
}

const patient = (p: Probe): Probe => [...p, '--timeout', TIMEOUT_MS];
function specOf(c: Case, network: string): RunSpec {
  const labels = {
    ...(c.allow === undefined ? {} : { 'drawbridge.allow': c.allow }),
    ...(c.lists === undefined ? {} : { 'drawbridge.lists': c.lists }),
  };
  return { network, labels, ...(c.name === undefined ? {} : { name: c.name }) };
}

const failureOf = (probe: Probe, r: ProbeResult): string[] =>
  r.ok ? [] : [`${probe.join(' ')}: ${outcome(r)} ${r.message ?? ''} after ${r.ms} ms`];
const verdict = (d: Denied, r: ProbeResult): unknown => ({
  probe: d.probe.join(' '),
  code: outcome(r),
  fast: r.ms < FAST_MS,
});
/** All attempts of a case in one fresh container. In every other case the denied ones are its first. */
async function tryCase(place: Place, c: Case, i: number): Promise<{ refused: string[]; denied: unknown[] }> {
  const no = c.no.map((d) => d.probe);
  const all = (i % 2 === 0 ? [...c.yes, ...no] : [...no, ...c.yes]).map(patient);
  const results = await probeAll(place.lab, specOf(c, place.network), all);
  const [yesAt, noAt] = i % 2 === 0 ? [0, c.yes.length] : [no.length, 0];
  const resultOf = (at: number): ProbeResult => results[at] as ProbeResult;
  return {
    refused: c.yes.flatMap((probe, n) => failureOf(probe, resultOf(yesAt + n))),
    denied: c.no.map((d, n) => verdict(d, resultOf(noAt + n))),
  };
}
const allDenied = (c: Case): unknown[] =>
  c.no.map((d) => ({ probe: d.probe.join(' '), code: d.code, fast: true }));

/** What was seen of what leaked, for the message of a failure. */
const evidence: string[] = [];
/** What of the denied was seen outside: packets by the sniffer, names by the authority. */
async function leaks(lab: Lab, cases: readonly Case[]): Promise<string[]> {
  const queries = await lab.dns.queries();
  const found: string[] = [];
  evidence.length = 0;
  for (const d of cases.flatMap((c) => c.no)) {
    const out = d.out ? await lab.sniffer.packets({ direction: 'out', ...d.out }) : [];
    if (out.length > 0) found.push(d.probe.join(' '));
    const asked = queries.filter((q) => q.name === d.name);
    if (asked.length > 0) found.push(`name ${d.name}`);
    if (out.length + asked.length > 0) evidence.push(JSON.stringify({ probe: d.probe, out, asked }));
  }
  return [...new Set(found)].sort();
}
async function fresh(lab: Lab): Promise<void> {
  await lab.dns.clearLog();
  await lab.sniffer.clear();
}

async function tryCases(place: Place, cases: readonly Case[]): Promise<void> {
  await fresh(place.lab);
  const indexed = cases.map((c, i) => [c, i] as const);
  const outcomes = await inParallel(AT_ONCE, indexed, ([c, i]) => tryCase(place, c, i));
  expect(outcomes.flatMap((o) => o.refused)).toEqual([]);
  expect(outcomes.map((o) => o.denied)).toEqual(cases.map(allDenied));
  const leaked = await leaks(place.lab, cases);
  expect(leaked, evidence.join('\n')).toEqual([]);
}

/** The same attempts without Drawbridge: all get through, and all are seen. */
async function tryControl(place: Place, cases: readonly Case[]): Promise<void> {
  await fresh(place.lab);
  const all = cases.flatMap((c) => c.no);
  const results = await probeAll(
    place.lab,
    { network: place.network },
    all.map((d) => d.probe),
  );
  const failed = all.filter((_, i) => !results[i]?.ok).map((d) => d.probe.join(' '));
  expect(failed).toEqual([]);
  const seen = await leaks(place.lab, cases);
  const outside = all.flatMap((d) => [
    ...(d.out ? [d.probe.join(' ')] : []),
    ...(d.name === undefined ? [] : [`name ${d.name}`]),
  ]);
  expect(seen).toEqual([...new Set(outside)].sort());
  await place.lab.endConnections();
}

async function inside(lab: Lab, network: string): Promise<Inside> {
  const db = await listener(lab, [5432, 5433], {
    name: 'db',
    network,
    ...(network === 'bridge' ? {} : { args: ['--network-alias', 'store', '--network-alias', 'database'] }),
    labels: { 'com.docker.compose.service': 'store', 'com.docker.compose.project': 'shop' },
  });
  const { ip4, ip6, gateway } = await db.addresses();
  return { gateway, db: { ip4, ip6 }, user: network !== 'bridge' };
}

/**
 * `scan` reports when Docker's own port was found and asked, without and with Drawbridge; left out, the port is not tried: one rule
 * closes it whichever way names are asked. What is no name is evaluated the same way whoever resolves names: the direct way tries it,
 * the loopback way tries names only.
 */
export function policySuite(dns: Dns, scan?: ReturnType<typeof shownHere>): void {
  const isDirect = dns === 'direct';
  describe.each(['bridge', 'user'])(`names asked the ${dns} way, containers on network %s`, (network) => {
    let lab: Lab;
    let place: Place;
    let world: Inside;
    let drawbridge: Drawbridge;
    let rotation: Promise<Rotation> | undefined;
    beforeAll(async () => {
      lab = await Lab.up({ dns });
      place = { lab, network, dns, drawbridge: () => drawbridge, inside: () => world };
      await lab.dns.set(ZONE);
      if (network === 'user') await lab.docker('network', 'create', '--ipv6', network);
      await listener(lab, [9125, 9126, 9127], { network: 'host', labels: { 'drawbridge.mode': 'off' } });
    });
    afterAll(() => lab?.down());

    it('control: without Drawbridge everything denied below gets through', async () => {
      world = await inside(lab, network);
      const more = isDirect ? [...addresses, ...lists, ...insideCases(world)] : [];
      await tryControl(place, [...names, ...more]);
    });

    it('names', async () => {
      const config = { dns: { zones: ZONES }, baseline: ['everyone'] };
      drawbridge = lab.drawbridge({ config, lists: LISTS });
      await drawbridge.ready();
      await tryCases(place, names);
      const asked = (await lab.dns.queries('db.corp.test')).map((q) => q.to);
      expect(new Set(asked)).toEqual(new Set(['10.200.0.53']));
    });
    if (isDirect) {
      it('addresses', async () => {
        rotation = rotate(place);
        rotation.catch(() => undefined); // the test that awaits it tells
        await tryCases(place, addresses);
      });
      it('lists, baseline, claims', () => tryCases(place, lists));
      it('the host and other containers', () => tryCases(place, insideCases(world)));
    }
    dnsTests(
      () => place,
      () => rotation ?? rotate(place),
      scan,
    );
  });
}
