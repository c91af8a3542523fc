/** What files of the allowlists folder may be read. */
import type { Mutant } from './mutant.js';

const OPEN_FILE = 'src/config/open-file.ts';
const folder = (test: string) => ({ file: 'test/pure/config/list-folder.test.ts', test });
const LEADS_OUT =
  'does not follow a link that leads out, directly or through another, and shows nothing of the file';

export const LISTS: readonly Mutant[] = [
  {
    id: 'list-link-out',
    what: 'a link in the allowlists folder leads to any file of the host',
    file: OPEN_FILE,
    from: 'if (!isInside)',
    to: 'if (false)',
    killedBy: folder(LEADS_OUT),
  },
  {
    id: 'list-link-sibling',
    what: 'a folder whose name begins like that of the allowlists folder counts as within it',
    file: OPEN_FILE,
    from: '.replace(/\\/*$/, sep)',
    to: '',
    killedBy: folder(LEADS_OUT),
  },
  {
    id: 'list-foreign-lines',
    what: 'a message quotes the line of a file that is no list as a key',
    file: 'src/lib/json.ts',
    from: '/^[A-Za-z0-9_][\\w.*/-]{0,62}$/.test(key)',
    to: 'true',
    killedBy: folder('shows no lines of a file that is no list'),
  },
];
