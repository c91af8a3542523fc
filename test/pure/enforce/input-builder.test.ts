import { expect, it } from 'vitest';
import { Identities } from '../../../src/enforce/identities.js';
import { type Found, InputBuilder, type InputParts } from '../../../src/enforce/ruleset-input.js';
import { Current } from '../../../src/lib/current.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { compile } from '../../../src/ruleset/compile.js';
import { shape } from '../ruleset/sample.js';

const bridge = (name: string, index: number) =>
  [
    name,
    {
      link: { index, name, mac: `02:00:00:00:00:0${index}`, kind: 'bridge', since: 0 },
      network: {
        id: name,
        name,
        driver: 'bridge',
        subnets: [`10.0.${index}.0/24`],
        gateways: [],
        options: {},
      },
      ports: [],
      mixed: false,
    },
  ] as const;

/** A builder, and the identities that it assigns. */
function builder(more: Partial<InputParts> = {}) {
  const none = () => undefined;
  const identities = new Identities(100);
  const parts = {
    shape,
    applied: new Current(),
    policies: {
      policyOf: none,
      eastWest: none,
      isLan: () => false,
      unattributed: () => ({
        mode: 'enforce',
        modeSource: { kind: 'default' },
        entries: [],
        lists: [],
        notes: [],
      }),
      stamp: () => ({}),
    },
    quotas: { limitsOf: none },
    reserved: { list: () => [] },
    identities,
    zones: { has: () => true },
    vethTable: { bindings: new Map(), unattributed: new Set() },
    now: () => 0,
    ...more,
  } as unknown as InputParts;
  return { identities, build: (found: Found) => new InputBuilder(parts).build(found, none) };
}

/** What a first pass compiles when Docker has listed its networks in this order. */
function compiled(names: readonly string[]) {
  return compile(builder().build(found({ names }))).tables;
}

const found = ({ names = [], unbound = [] }: { names?: readonly string[]; unbound?: readonly object[] }) =>
  ({
    view: { containers: new Map(), networks: new Map() },
    vethMap: {
      bindings: new Map(),
      unbound,
      exempt: [],
      bridges: new Map(names.map((name) => bridge(name, Number(name.slice(-1))))),
    },
    hosts: {
      net: { gates: [], exempt: [], builds: [], zones: true, native: true },
      cgroups: new Map(),
      late: new Map(),
      open: new Map(),
    },
  }) as unknown as Found;

it('the rules are the same in whatever order Docker lists its networks', () => {
  const rules = compiled(['br-1', 'br-2', 'br-3']);
  expect(JSON.stringify([...(rules[0]?.chains ?? [])])).toContain('br-3');
  expect(compiled(['br-3', 'br-1', 'br-2'])).toEqual(rules);
});

it.each([
  ['keeps its identity while its veth is there', [{ index: 7 }], true],
  ['leaves it when its veth has gone', [{ index: 8 }], false],
])('a container that Docker does not report any more %s', (_, unbound, isKept) => {
  const applied = new Current<AppliedState>();
  const { identities, build } = builder({ applied });
  const identity = identities.assign('c', 0);
  applied.set({
    input: { subjects: [{ id: 'c', veths: [{ ifindex: 7 }] }] },
    subjects: new Map(),
  } as unknown as AppliedState);
  build(found({ unbound }));
  expect(identities.of('c')).toBe(isKept ? identity : undefined);
  expect(identities.assign('c', 0) === identity).toBe(isKept);
});
