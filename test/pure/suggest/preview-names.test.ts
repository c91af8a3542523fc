/** What the preview of mode enforce reports about the names that connections ask for, which are not seen of observed containers. */
import { describe, expect, it } from 'vitest';
import type { ContainerFacts } from '../../../src/policy/container.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { namesNotChecked, type PreviewParts, previewView } from '../../../src/suggest/preview.js';
import { member, shape } from '../ruleset/sample.js';

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

describe('what was recorded', () => {
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
    endpoints: [{ networkId: 'front', ip4: '172.18.0.2', dnsNames: [] }],
  } as unknown as ContainerFacts;
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
