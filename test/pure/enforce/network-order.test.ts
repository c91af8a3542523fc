import { expect, it } from 'vitest';
import { Identities } from '../../../src/enforce/identities.js';
import { type Found, InputBuilder, type InputParts } from '../../../src/enforce/ruleset-input.js';
import { Current } from '../../../src/lib/current.js';
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

/** What a first pass compiles when Docker has listed its networks in this order. */
function compiled(names: readonly string[]) {
  const none = () => undefined;
  const parts = {
    shape,
    applied: new Current(),
    policies: {
      policyOf: none,
      eastWest: none,
      isLan: () => false,
      unattributed: () => ({ mode: 'enforce', modeFrom: 'default', entries: [], lists: [], notes: [] }),
      stamp: () => ({}),
    },
    quotas: { limitsOf: none },
    reserved: { list: () => [] },
    identities: new Identities(100),
    zones: { has: () => true },
    vethTable: { bindings: new Map(), unattributed: new Set() },
    now: () => 0,
  } as unknown as InputParts;
  const found = {
    view: { containers: new Map(), networks: new Map() },
    vethMap: {
      bindings: new Map(),
      unbound: [],
      exempt: [],
      bridges: new Map(names.map((name) => bridge(name, Number(name.slice(-1))))),
    },
    hosts: {
      net: { gates: [], exempt: [], builds: [], zones: true, native: true },
      cgroups: new Map(),
      late: new Map(),
      open: new Map(),
    },
  } as unknown as Found;
  return compile(new InputBuilder(parts).build(found, none)).tables;
}

it('the rules are the same in whatever order Docker lists its networks', () => {
  const rules = compiled(['br-1', 'br-2', 'br-3']);
  expect(JSON.stringify([...(rules[0]?.chains ?? [])])).toContain('br-3');
  expect(compiled(['br-3', 'br-1', 'br-2'])).toEqual(rules);
});
