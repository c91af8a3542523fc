/** What is decided in the process: which flows are deleted. */
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
    killedBy: {
      file: 'test/pure/control/adopt.test.ts',
      test: 'what no entry permits is deleted',
    },
  },
];
