/** Deny entries. */
import type { Mutant } from './mutant.js';

const pure = (file: string, test: string) => ({ file: `test/pure/${file}.test.ts`, test });

export const DENY: readonly Mutant[] = [
  {
    id: 'deny-order',
    what: 'deny entries come after the entries that permit',
    file: 'src/ruleset/container-chains.ts',
    from: '[[...errors, ...denials], []] : [[], errors]',
    to: '[[], [...errors, ...denials]] : [[], errors]',
    killedBy: pure('ruleset/deny-rules', 'is named by the rule'),
  },
  {
    id: 'deny-dns',
    what: 'a denied name resolves',
    file: 'src/dns/names-policy.ts',
    from: 'if (denied) return { ...DENIED, reason: denialText(denied), deniedBy: denied };',
    to: '',
    killedBy: pure('dns/names-policy', 'deny a name on every port'),
  },
  {
    id: 'deny-name-ports',
    what: 'denied ports of a name are permitted at the addresses that it resolves to',
    file: 'src/dns/names-policy.ts',
    from: 'if (c.withheld !== withheld) return [];',
    to: 'if (c.withheld !== undefined) return [];',
    killedBy: pure('dns/names-policy', 'give a name with denied ports sets of its own'),
  },
  {
    id: 'deny-server-name',
    what: 'a connection may ask for a denied name',
    file: 'src/connections/name-rules.ts',
    from: 'if (denial) return refuse({ reason, name, detail: denialText(denial) });',
    to: '',
    killedBy: pure('connections/name-rules', 'beat the entries that permit a name'),
  },
  {
    id: 'deny-unchecked-addresses',
    what: 'connections to permitted addresses may ask for any name',
    file: 'src/ruleset/classes.ts',
    from: 'classesFor(pe.entry, checks, denied)',
    to: 'classesFor(pe.entry, checks, denied && { names: denied.names })',
    killedBy: pure('ruleset/deny-rules', 'is checked: true'),
  },
  {
    id: 'deny-image',
    what: "an image's deny entries do not count",
    file: 'src/policy/policy-compile.ts',
    from: "for (const entry of intent.fromImage.allow) gathering.addEntry(entry, { kind: 'label' }, fromList, 'deny');",
    to: '',
    killedBy: pure('policy/deny-entries', "of an image's labels"),
  },
  {
    id: 'deny-image-permits',
    what: 'an image permits itself what it wants',
    file: 'src/policy/gathering.ts',
    from: "if (walk.counted === 'deny' && !entry.deny) return;",
    to: '',
    killedBy: pure('policy/deny-entries', "of an image's labels"),
  },
  {
    id: 'deny-yaml-tag',
    what: 'a ! and a blank without quotes permits what was to be denied',
    file: 'src/lib/yaml.ts',
    from: 'if (tag) return excess(',
    to: 'if (tag && tag.offset < 0) return excess(',
    killedBy: pure('policy/deny-entries', 'without quotes in YAML'),
  },
];
