/** Files of earlier versions, each of which had one kind of the small state (small-state.ts). They are read once. */
import { readFileSync } from 'node:fs';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { parseJson, readFrames } from './frame-file.js';

/** Reads a file into `rows`, values by key. What it throws leaves the rows that could be read. */
type Reader = (path: string, rows: Map<string, string>) => void | Promise<void>;

const READERS: readonly (readonly [pattern: RegExp, area: string, read: Reader])[] = [
  [/^quotas\.json$/, 'quotas', readQuotas],
  [/^running\.json$/, 'run', (path, rows) => void rows.set('running', readFileSync(path, 'utf8'))],
  [/^idempotency\.log$/, 'idempotency', readAnswers],
  [/^notify-([A-Za-z0-9_-]+)\.outbox$/, 'outbox ', readQueue],
];

/** The rows, and the paths that can be removed when these are saved. A damaged file is renamed (PATH.damaged). Never rejects. */
export async function formerFiles(folder: string, log: Pick<Logger, 'error'>) {
  const rows: (readonly [area: string, key: string, value: string])[] = [];
  const files: string[] = [];
  for (const name of await readdir(folder).catch(() => [])) // what opens the small state reports such a folder
    for (const [pattern, area, read] of READERS) {
      const [match, of = ''] = pattern.exec(name) ?? [];
      if (match === undefined) continue;
      const path = join(folder, name);
      const found = new Map<string, string>();
      try {
        await read(path, found);
        files.push(path);
      } catch (e) {
        const aside = `${path}.damaged`;
        log.error({ file: path, err: String(e), aside }, 'a file of an earlier version is damaged');
        await rename(path, aside).catch(() => undefined); // the next start reads it again
      }
      for (const [key, value] of found) rows.push([area + of, key, value]);
    }
  return { rows, files };
}

function readQuotas(path: string, rows: Map<string, string>): void {
  const content: unknown = JSON.parse(readFileSync(path, 'utf8'));
  if (!isRecord(content) || !isRecord(content.used)) throw new Error('its content has another structure');
  for (const [name, used] of Object.entries(content.used)) rows.set(name, String(used));
}

/** A line for each change of a key; one without its other fields deletes it. A line that a crash has cut short is passed over. */
function readAnswers(path: string, rows: Map<string, string>): void {
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const read = parseJson(Buffer.from(line));
    if (!isRecord(read) || typeof read.id !== 'string') continue;
    if (read.state === undefined) rows.delete(read.id);
    else rows.set(read.id, line);
  }
}

/** Frames: an event with its number, the number of the last one of a message, one that was dropped, the last one that was delivered. */
async function readQueue(path: string, rows: Map<string, string>): Promise<void> {
  const end = await readFrames(path, (payload) => {
    const frame = parseJson(payload);
    const [kind, number, event]: readonly unknown[] = Array.isArray(frame) ? frame : [];
    if (kind === 'e') rows.set(String(number), JSON.stringify(event));
    else if (kind === 'b') rows.set('head', String(number));
    else if (kind === 'x') rows.delete(String(number));
    else if (kind === 'd')
      for (const key of rows.keys()) if (key !== 'head' && Number(key) <= Number(number)) rows.delete(key);
  });
  if (end?.tail === 'corrupt') throw new Error(`it is damaged after byte ${end.goodLength}`);
}
