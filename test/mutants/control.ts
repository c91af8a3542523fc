/** What is decided in the process: bindings, held packets, flows that are deleted, changes. */
import type { Mutant } from './mutant.js';

export const CONTROL: readonly Mutant[] = [
  {
    id: 'cut-second-round',
    what: 'a flow that a packet on its way creates again while it is deleted goes on',
    file: 'src/control/cut.ts',
    from: '  if (ended.length > 0) await round();\n',
    to: '',
    killedBy: {
      file: 'test/pure/control/revocation.test.ts',
      test: 'a flow that a packet on its way creates again while it is deleted is deleted, too',
    },
  },
  {
    id: 'adopt-keeps-forbidden',
    what: 'what a container of the host network opened before its rules goes on although no entry permits it',
    file: 'src/control/adopt.ts',
    from: 'doomed: own.filter((f) => !keeps(f))',
    to: 'doomed: []',
    killedBy: { file: 'test/pure/control/adopt.test.ts', test: 'what no entry permits is deleted' },
  },
  {
    id: 'signature-host',
    what: 'taking away a host: entry cuts no flow',
    file: 'src/control/revocation.ts',
    from: '      c.host.length > 0,\n',
    to: '',
    killedBy: { file: 'test/pure/control/signature.test.ts', test: 'the host' },
  },
  {
    id: 'signature-neighbours',
    what: 'closing eastWest cuts no flow of neighbours',
    file: 'src/control/revocation.ts',
    from: '    m.neighbours,\n',
    to: '',
    killedBy: { file: 'test/pure/control/signature.test.ts', test: 'the neighbours of its project' },
  },
  {
    id: 'classify-awaited',
    what: 'a veth is unattributed while an endpoint of its bridge has none yet',
    file: 'src/control/classify.ts',
    from: ' && !this.#isAwaited(state, view, p.master)',
    to: '',
    killedBy: {
      file: 'test/pure/control/classify.test.ts',
      test: 'while a container of the bridge has no veth yet',
    },
  },
  {
    id: 'hold-ambiguous',
    what: 'a held packet is taken for the first of two veths with the same low bits',
    file: 'src/control/hold.ts',
    from: 'return fitting.length === 1 ? fitting[0] : undefined;',
    to: 'return fitting[0];',
    killedBy: {
      file: 'test/pure/control/hold.test.ts',
      test: 'whose ifindex has the same low bits as another’s',
    },
  },
  {
    id: 'hold-share',
    what: 'the packets of one unknown port fill the queue of all',
    file: 'src/control/hold.ts',
    from: ' || share >= MAX_WAITING_OF_ONE',
    to: '',
    killedBy: { file: 'test/pure/control/hold.test.ts', test: 'while a veth is flooded' },
  },
  {
    id: 'hold-forged',
    what: 'a held packet of an enforced container goes on with a forged source',
    file: 'src/control/hold.ts',
    from: "return own || who.mode !== 'enforce' ? ",
    to: "return own || who.mode !== 'off' ? ",
    killedBy: {
      file: 'test/pure/control/hold.test.ts',
      test: 'of an enforced container with another source is dropped',
    },
  },
  {
    id: 'bind-ambiguous',
    what: 'a veth is bound by a MAC that two endpoints have',
    file: 'src/control/bindings.ts',
    from: 'fitting.length === 1 && rivals.length === 1 && only && isProven',
    to: 'only && isProven',
    killedBy: {
      file: 'test/pure/control/bindings.test.ts',
      test: 'is not bound by a MAC that two free containers or two free veths have',
    },
  },
  {
    id: 'bind-late',
    what: 'a veth is bound by what Docker was asked before it appeared',
    file: 'src/control/bindings.ts',
    from: ' && isProven(candidate, only)',
    to: '',
    killedBy: {
      file: 'test/pure/control/bindings.test.ts',
      test: 'is not bound by what was asked for before',
    },
  },
  {
    id: 'commit-blind',
    what: 'the store is written without compare-and-set',
    file: 'src/control/changes-commit.ts',
    from: 'await store.put(key, value, { ifRevision })',
    to: 'await store.put(key, value, {})',
    killedBy: {
      file: 'test/pure/control/changes-writers.test.ts',
      test: 'a list that has lost an entry elsewhere does not get it back',
    },
  },
  {
    id: 'commit-blind-delete',
    what: 'the store deletes without compare-and-set',
    file: 'src/control/changes-commit.ts',
    from: 'await store.delete(key, { ifRevision })',
    to: 'await store.delete(key, {})',
    killedBy: {
      file: 'test/pure/control/changes-writers.test.ts',
      test: 'a list that has lost an entry elsewhere does not get it back',
    },
  },
  {
    id: 'commit-all-outdated',
    what: 'an import that waited overwrites what changed meanwhile',
    file: 'src/control/changes-commit.ts',
    from: 'if (moved !== undefined) refuse(',
    to: "if (moved === '') refuse(",
    killedBy: {
      file: 'test/pure/control/changes-writers.test.ts',
      test: 'an import that waited behind another change of the same host sees that it is outdated',
    },
  },
  {
    id: 'direct-any-port',
    what: 'dns=direct opens every port and protocol of that resolver',
    file: 'src/control/names-policy.ts',
    from: 'return fits && value !== undefined',
    to: 'return value !== undefined',
    killedBy: { file: 'test/pure/control/names-policy.test.ts', test: '10.0.0.53, port 53 over tcp: false' },
  },
];
