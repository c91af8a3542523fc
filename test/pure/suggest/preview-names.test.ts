/** What the preview of mode enforce reports about the names that connections ask for, which are not seen of observed containers. */
import { describe, expect, it } from 'vitest';
import type { NameDecision } from '../../../src/dns/names-policy.js';
import type { Decide } from '../../../src/dns/recorder.js';
import { Destinations, type DestinationsParts } from '../../../src/flows/destination.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { classSet } from '../../../src/ruleset/naming.js';
import type { Recorded } from '../../../src/suggest/needs.js';
import { namesNotChecked, type PreviewParts, previewView } from '../../../src/suggest/preview.js';
import { input, member, shape } from '../ruleset/sample.js';
import { DAY, NOW, seen } from './sample.js';

const names = { verify: true, quic: 'verify', ports: [443, 8443] } as const;
const observed = member(2, 'a.example', 'observe');

it('is a sentence with the ports on which enforce checks them', () => {
  expect(namesNotChecked(observed, { ...shape, names })).toEqual([
    expect.stringMatching(
      /^the names that its connections ask for are not seen while it is observed: .* by address\. .* TCP and UDP ports 443, 8443 and TCP port 80/,
    ),
  ]);
});

it('is nothing where enforce does not check them either', () => {
  const lan = { links6: [], sandbox: 'x' } as unknown as NonNullable<Subject['lan']>;
  expect(namesNotChecked({ ...observed, lan }, { ...shape, names })).toEqual([]);
  expect(namesNotChecked(observed, { ...shape, names: { ...names, verify: false } })).toEqual([]);
});

const facts = {
  ...{
    id: member(7, '').id,
    name: 'web',
    labels: {},
    imageLabels: {},
    imageId: '',
    image: 'x',
    state: 'running',
  },
  ...{ privileges: { dns: [] }, published: [] },
  endpoints: [{ networkId: 'front', ip4: '172.18.0.2', dnsNames: [] }],
} as unknown as ContainerFacts;

describe('what was recorded', () => {
  const preview = (mode: 'observe' | 'off', isOnNetwork: boolean) => {
    const subject = member(7, '', mode);
    const networks = new Map([['front', { id: 'front', name: 'front', driver: 'bridge', subnets: [] }]]);
    const parts = {
      applied: { value: { subjects: new Map(isOnNetwork ? [[subject.id, subject]] : []) } },
      shape: { ...shape, names },
      docker: {
        view: () => ({ containers: new Map([[facts.id, facts]]), networks }),
        resolver: async () => undefined,
      },
      policies: {
        policyOf: () => subject.policy,
        policyAs: () => ({ ...subject.policy, mode: 'observe' }),
        isManaged: () => isOnNetwork,
        isLan: () => false,
      },
    } as unknown as PreviewParts;
    const record = { owner: 'name:web', since: 1_000, gaps: [], starts: 1, dropped: 0, seen: [] };
    return previewView(parts, facts, { mode: 'auto' }, record);
  };

  it('is recorded in mode off as well', async () => {
    const { recordingSince, notRecorded } = await preview('off', true);
    expect([recordingSince, notRecorded.join()]).toEqual([
      '1970-01-01T00:00:01Z',
      expect.not.stringContaining('mode off'),
    ]);
  });

  it('is not recorded now where the container is on no managed network', async () => {
    const { recordingSince, notRecorded } = await preview('observe', false);
    expect([recordingSince, notRecorded.join()]).toEqual([
      null,
      expect.stringContaining('on no managed network now'),
    ]);
  });
});

describe('an address that only a resolver of the container gave for a permitted name', () => {
  const [NAME, OWN, GIVEN] = ['a.example', '192.0.2.66', '192.0.2.1'];
  const subject = member(7, NAME, 'observe');
  const key = subject.classes[0]?.namesKey ?? '';
  const sets = {
    v4: classSet(shape.prefix, subject.id, key, 4, 'learned'),
    v6: classSet(shape.prefix, subject.id, key, 6, 'learned'),
  };
  const decision: NameDecision = { allow: true, entries: [], sets: [sets], allowPrivate: false };
  const connection = (dst: string): Flow => ({
    family: 4,
    proto: 6,
    orig: { src: '172.18.0.7', sport: 40_000, dst, dport: 443 },
    reply: { src: dst, sport: 443, dst: '172.18.0.7', dport: 40_000 },
    mark: 0,
    status: { seenReply: true, assured: true, confirmed: true, srcNat: false, dstNat: false },
    tcp: { handshake: false, closed: false, pickedUp: false },
    zone: 0,
    rawTuple: Buffer.alloc(0),
  });
  const view = {
    containers: new Map([[facts.id, facts]]),
    networks: new Map(),
    starting: new Set(),
  } as unknown as DockerView;
  const preview = (seenFlows: Recorded['seen'], own: Recorded['own'], open: readonly Flow[] = []) => {
    const given = {
      applied: { value: { subjects: new Map([[subject.id, subject]]), view, input: input(subject) } },
      dns: {
        setsOf: (_: string, decide: Decide) => (name: string) => decide(name).sets,
        isMember: () => false,
        namesReader: () => (address: string) => ({ names: [NAME], isOwn: address === OWN }),
      },
      kernel: {
        hostAddresses: () => new Set(),
        flows: { flows: async (f: number) => (f === 4 ? open : []) },
      },
    };
    const parts = {
      ...given,
      shape,
      docker: { view: () => view, resolver: async () => undefined },
      policies: {
        policyOf: () => subject.policy,
        policyAs: () => ({ ...subject.policy, mode: 'enforce' }),
        isManaged: () => true,
        isLan: () => false,
      },
      names: { decideAs: () => decision },
      threats: { has: () => false },
      destinations: new Destinations({ ...given, nat64: [] } as unknown as DestinationsParts),
    } as unknown as PreviewParts;
    const record = { owner: 'name:web', since: 0, gaps: [], starts: 1, dropped: 0, seen: seenFlows };
    return previewView(parts, facts, { mode: 'enforce' }, { ...record, ...(own && { own }) });
  };
  const use = { name: NAME, port: 443, proto: 'tcp', count: 3, first: 1_000, last: 2_000 };

  it('is denied, also where the last contact of the name was another address', async () => {
    const rows = [seen(NAME, { address: GIVEN }), seen(NAME, { address: OWN, last: NOW - DAY })];
    const { destinations } = await preview(rows, [{ ...use, address: OWN }]);
    expect(destinations).toEqual([
      {
        ...{ entry: `${OWN}:443`, kind: 'address', name: NAME, address: OWN, port: 443, proto: 'tcp' },
        ...{ count: 3, first: '1970-01-01T00:00:01.000Z', last: '1970-01-01T00:00:02.000Z' },
        verdict: 'would-deny',
      },
    ]);
  });

  it('is left out where an address that Drawbridge gives is denied all the same', async () => {
    const rows = [seen(NAME, { address: OWN, port: 8443 })];
    const { destinations } = await preview(rows, [{ ...use, address: OWN, port: 8443 }]);
    expect(destinations.map(({ entry }) => entry)).toEqual([`${NAME}:8443`]);
  });

  it('is an address also where a connection had no name when it was recorded', async () => {
    const rows = [seen(OWN, { reason: 'observed' }), seen(`${GIVEN}:8443`, { reason: 'observed' })];
    const { destinations } = await preview(rows, undefined);
    expect(destinations.map(({ entry }) => entry).sort()).toEqual([`${OWN}:443`, `${NAME}:8443`]);
  });

  it('is not permitted to a new connection either', async () => {
    const { flows } = await preview([], undefined, [connection(OWN), connection(GIVEN)]);
    expect(flows.map(({ address, entry, passesAgain }) => [address, entry, passesAgain])).toEqual([
      [OWN, `${OWN}:443`, false],
      [GIVEN, NAME, true],
    ]);
  });
});
