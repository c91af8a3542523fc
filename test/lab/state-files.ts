/** The table of the files of the state folder in docs/architecture.md. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const PAGE = join(import.meta.dirname, '../../docs/architecture.md');
/** Suffixes of files that belong to another file: those of SQLite, of an unfinished write, and of a copy that was kept after damage. */
const NEXT_TO =
  /(-wal|-shm|-journal|\.tmp|\.new|\.damaged.*|\.newer|\.unusable|\.unusable-wal|\.unusable-shm)$/;

/** The rows, each with its names. */
export function stateKinds(): readonly (readonly string[])[] {
  const [, section = ''] = readFileSync(PAGE, 'utf8').split('## The files of the state folder');
  const lines = section.split(/\n## /)[0]?.split('\n') ?? [];
  const first = lines.filter((line) => line.startsWith('| `')).map((line) => line.split('|')[1] ?? '');
  return first.map((cell) => [...cell.matchAll(/`([^`]+?)\/?`/g)].map(([, name = '']) => name));
}

/** The names in a state folder that are in no row. */
export function unlistedStateFiles(folder: string): readonly string[] {
  const patterns = stateKinds()
    .flat()
    .map((name) => new RegExp(`^${name.replaceAll('.', '\\.').replaceAll('*', '.*')}$`));
  return readdirSync(folder).filter((name) => {
    const plain = name.replace(NEXT_TO, '');
    return !patterns.some((pattern) => pattern.test(plain));
  });
}
