/** The start: closed before anything that can fail; and a store that vanished loosens nothing. */
import type { Mutant } from './mutant.js';

const TRUST = 'test/pure/changes/store-trust.test.ts';
const OPEN = 'test/pure/enforce/revocation.test.ts';
const DOUBT = 'test/pure/changes/store-trust-doubt.test.ts';

export const START: readonly Mutant[] = [
  {
    id: 'start-not-closed',
    what: 'a start that fails at boot leaves the host open',
    file: 'src/run-service.ts',
    from: '  await layClosedFirst(config, log);\n',
    to: '',
    also: [
      {
        file: 'src/run-service.ts',
        from: '    await stayClosed(config, log);\n    const cause',
        to: '    const cause',
      },
    ],
    killedBy: { file: 'test/live/boot.test.ts', test: 'a damaged store: the service runs closed' },
  },
  {
    id: 'start-config-not-closed',
    what: 'a configuration that is refused leaves the host open at boot',
    file: 'src/cli/service-commands.ts',
    from: '    await session.host.layClosed(lenient, await session.host.createLog(lenient.log));\n',
    to: '',
    killedBy: { file: 'test/pure/cli/run.test.ts', test: 'a refused configuration ends the start, closed' },
  },
  {
    id: 'guard-needs-state',
    what: 'the guard does not work on a read-only state folder',
    file: 'src/ops/guard.ts',
    from: '    if (!isOfTheSystem(e)) throw e;\n',
    to: '    throw e;\n',
    killedBy: { file: 'test/live/boot.test.ts', test: 'a state folder that is read-only: the guard works' },
  },
  {
    id: 'doubt-unknown-container',
    what: 'a container that the kernel did not know is observed after the state vanished',
    file: 'src/changes/store-trust.ts',
    from: "doubt.modes.get(facts.id) ?? 'enforce'",
    to: "doubt.modes.get(facts.id) ?? 'off'",
    killedBy: { file: DOUBT, test: 'a container that the kernel did not know is enforced' },
  },
  {
    id: 'doubt-old-decision',
    what: 'a mode from before the state vanished counts as a decision made since',
    file: 'src/changes/store-trust.ts',
    from: 'revision !== undefined && of(key) > revision',
    to: 'revision !== undefined',
    killedBy: { file: DOUBT, test: 'a mode that a person has set since counts, one from before does not' },
  },
  {
    id: 'doubt-old-entries',
    what: 'lists of an old backup permit what was revoked since',
    file: 'src/changes/store-trust.ts',
    from: "l.source !== 'store' || isNewer(doubt, listKey(name), of)",
    to: 'true',
    killedBy: { file: TRUST, test: 'entries and tokens of an old backup count only' },
  },
  {
    id: 'doubt-revision',
    what: 'an old backup of the state loosens what was tightened since',
    file: 'src/changes/store-trust.ts',
    from: '  if (now.revision < known.revision)\n',
    to: '  if (now.revision < 0)\n',
    killedBy: { file: DOUBT, test: 'an older state of it' },
  },
  {
    id: 'doubt-lockdown',
    what: 'a lockdown is off after the state vanished',
    file: 'src/changes/store-trust.ts',
    from: 'lockdown: said.lockdown ?? doubt.lockdown,',
    to: 'lockdown: said.lockdown,',
    killedBy: { file: TRUST, test: 'another store loosens nothing' },
  },
  {
    id: 'doubt-paused',
    what: 'a container that was paused when the state vanished stays observed for ever',
    file: 'src/changes/store-trust.ts',
    from: 'return this.#record?.isPaused === true ? new Map() : modes;',
    to: 'return modes;',
    killedBy: { file: TRUST, test: 'not where a pause was in force' },
  },
  {
    id: 'doubt-record',
    what: 'the second start after the state vanished believes the new store',
    file: 'src/changes/store-trust.ts',
    from: 'this.#doubt && this.#record ? this.#record :',
    to: '',
    killedBy: { file: TRUST, test: 'another store loosens nothing' },
  },
  {
    id: 'kept-rules-late',
    what: 'a change between the reading of kept rules and the first pass goes unnoticed',
    file: 'src/kernel/dataplane.ts',
    from: 'const before = known ? known.at : now();',
    to: 'const before = now();',
    killedBy: {
      file: 'test/kernel/kept-rules.test.ts',
      test: 'a change between the reading of the file and the first pass counts, too',
    },
  },
  {
    id: 'kept-rules-other-cgroup',
    what: 'kept rules count although a cgroup that they name has been made again',
    file: 'src/kernel/read-rules.ts',
    from: 'isSame && cgroups.every(([path, object]) => this.#o.objectOf(path) === object)',
    to: 'isSame && cgroups.length >= 0',
    killedBy: {
      file: 'test/kernel/kept-rules.test.ts',
      test: 'it does not count for another prefix, for another object of a cgroup, or when it is damaged',
    },
  },
  {
    id: 'open-marks-count',
    what: 'a mark that something has set before any rule lets a flow go on past the check of its name',
    file: 'src/enforce/revocation.ts',
    from: 'this.#wasOpen && check !== undefined',
    to: 'check === undefined',
    killedBy: { file: OPEN, test: 'a mark from before shows nothing, and goes from what goes on' },
  },
  {
    id: 'open-learn-checked',
    what: 'a flow to a port where connections are checked goes on by an address of a name',
    file: 'src/enforce/earlier-flows.ts',
    from: '    !c.isChecked &&\n',
    to: '',
    killedBy: { file: OPEN, test: 'names are resolved for what only they may permit' },
  },
  {
    id: 'open-order-over-rules',
    what: 'over rules that are installed, a veth gets its identity before the rules of its container',
    file: 'src/kernel/read-rules.ts',
    from: 'every((r) => r.hash === undefined)',
    to: 'every(() => true)',
    killedBy: {
      file: 'test/pure/kernel/apply-order.test.ts',
      test: 'at a start on a host without rules the marks come first',
    },
  },
  {
    id: 'open-answer-reversed',
    what: 'an enforced container opens a connection of a neighbour reversed, by a segment of its middle',
    file: 'src/ruleset/constant-chains.ts',
    from: "        { k: 'mark', value: marks.enforced, mask: marks.enforced },\n        { k: 'set', set: sharedSet(names.prefix, 'own', family), dir: 'dst' },",
    to: "        { k: 'mark', value: marks.enforced, mask: marks.enforced },\n        { k: 'set', set: sharedSet(names.prefix, 'enf', family), dir: 'dst' },",
    killedBy: {
      file: 'test/pure/ruleset/deleted-flows.test.ts',
      test: 'from an enforced one to a neighbour: no segment that would open a connection reversed',
    },
  },
  {
    id: 'open-behind-base',
    what: 'a flow from before the guard passes between the first rules and the revocation',
    file: 'src/enforce/veth-table.ts',
    from: 'this.#isClosed && strict.has(b.ifindex)',
    to: 'this.#isClosed && !strict.has(b.ifindex)',
    killedBy: {
      file: 'test/pure/enforce/veth-table.test.ts',
      test: 'the first rules behind the closed base: an enforced container has no flow from before it, an observed one goes on',
    },
  },
  {
    id: 'reset-without-end',
    what: 'a program that keeps the lock of its socket holds up the revocation',
    file: 'src/enforce/connection-ends.ts',
    from: 'await Promise.race([resets, sleep(BUDGET_MS, undefined, { ref: false })]);',
    to: 'await resets;',
    killedBy: {
      file: 'test/pure/enforce/connection-ends.test.ts',
      test: 'a process that does not end holds up nothing',
    },
  },
  {
    id: 'reset-again',
    what: 'each revocation adds a process to those that wait for the lock of a socket',
    file: 'src/enforce/connection-ends.ts',
    from: '!isOver && !this.#busy.has(path)',
    to: '!isOver',
    killedBy: {
      file: 'test/pure/enforce/connection-ends.test.ts',
      test: 'no other one is started in its namespace',
    },
  },
];
