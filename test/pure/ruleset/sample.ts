import { isDest, parseEntries } from '../../../src/policy/entry-parse.js';
import type { Mode, PolicyEntry } from '../../../src/policy/policy.js';
import { NO_NAME_CHECKS, planClasses } from '../../../src/ruleset/classes.js';
import {
  type DesiredInput,
  type DesiredState,
  type KernelConfig,
  NO_HOST_NET,
  type Subject,
  type Veth,
} from '../../../src/ruleset/desired-state.js';
import { layoutMarks } from '../../../src/ruleset/marks.js';

export const shape: KernelConfig = {
  prefix: 'DB',
  marks: layoutMarks(0x7f003fff),
  holdQueue: 53,
  checkQueue: 54,
  datagramQueue: 55,
  askQueue: 56,
  names: NO_NAME_CHECKS,
  logGroup: 53,
  dns: { v4: '169.254.53.53', v6: 'fd64:6272:6467::53', port: 5353 },
  deny: 'reject',
  failure: 'closed',
};

export function entriesOf(text: string): PolicyEntry[] {
  const parsed = parseEntries(text);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.value.filter(isDest).map((entry) => ({ entry, source: { kind: 'label' } }));
}

export function member(
  identity: number,
  allow: string,
  mode: Mode = 'enforce',
  ports?: readonly Veth[],
): Subject {
  const entries = entriesOf(allow);
  return {
    id: identity.toString(16).padStart(12, '0').padEnd(64, 'a'),
    identity,
    policy: { mode, modeSource: { kind: 'label' }, entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    families: new Set([4, 6] as const),
    neighbours: [],
    veths: ports ?? [
      {
        ifindex: 100 + identity,
        mac: `02:42:ac:12:${(identity >> 8).toString(16).padStart(2, '0')}:${(identity & 255).toString(16).padStart(2, '0')}`,
        ip4: `172.18.${identity >> 8}.${identity & 255}`,
        ip6: `fd00:18::${identity.toString(16)}`,
        bridge: 'br-test',
      },
    ],
    published: [],
  };
}

export function input(...members: Subject[]): DesiredInput {
  return {
    shape,
    subjects: members,
    bridges: [
      {
        name: 'br-test',
        mac: '02:42:aa:bb:cc:dd',
        veths: members.flatMap((m) => m.veths.map((p) => p.ifindex)),
      },
    ],
    exempt: [],
    unattributed: [],
    unattributedMode: 'observe',
    unattributedClasses: [],
    hostNet: NO_HOST_NET,
  };
}

/** The same with maps of its own: those of a state after a change share their entries with the state before it. */
export const withOwnMaps = (desired: DesiredState): DesiredState => ({
  ...desired,
  sets: new Map(desired.sets),
  tables: desired.tables.map((t) => ({ ...t, chains: new Map(t.chains) })),
});
