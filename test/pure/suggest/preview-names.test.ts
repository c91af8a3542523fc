/** What the preview of mode enforce reports about the names that connections ask for, which are not seen of observed containers. */
import { expect, it } from 'vitest';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { namesNotChecked } from '../../../src/suggest/preview.js';
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
