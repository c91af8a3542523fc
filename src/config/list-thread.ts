/** The thread in which large lists are read, so that neither a file nor a request delays a DNS answer. */

import type { Parsed, Problem } from '../lib/problem.js';
import { serveThread, type ThreadRequest, type ThreadResult } from '../lib/thread.js';
import type { Entry } from '../policy/entry.js';
import { listFromObject } from '../policy/list-parse.js';
import type { List } from '../policy/policy.js';
import { parseListFile } from './list-files.js';

/** What the thread that reads lists does, and its messages; all plain data. */

/** A list without its entries, which are fetched in parts: to receive 50,000 at once blocks the event loop for 100 ms. */
export type Read =
  | { readonly ok: true; readonly list: List; readonly id: number; readonly count: number }
  | { readonly ok: false; readonly problems: readonly Problem[] };
export interface ListJobs {
  file: { readonly in: { readonly file: string; readonly bytes: Uint8Array }; readonly out: Read };
  body: {
    readonly in: { readonly name: string; readonly source: List['source']; readonly body: unknown };
    readonly out: Read;
  };
  entries: { readonly in: { readonly id: number; readonly from: number }; readonly out: readonly Entry[] };
}

const PART_ENTRIES = 500;

/** By id: entries that have not been fetched yet. */
const kept = new Map<number, readonly Entry[]>();
let ids = 0;

function keep(parsed: Parsed<List>): Read {
  if (!parsed.ok) return parsed;
  const { allow } = parsed.value;
  const id = ++ids;
  if (allow.length > 0) kept.set(id, allow);
  return { ok: true, list: { ...parsed.value, allow: [] }, id, count: allow.length };
}

function part({ id, from }: ListJobs['entries']['in']): readonly Entry[] {
  const all = kept.get(id) ?? [];
  if (from + PART_ENTRIES >= all.length) kept.delete(id);
  return all.slice(from, from + PART_ENTRIES);
}

function runListJob({ kind, job }: ThreadRequest): ThreadResult {
  switch (kind as keyof ListJobs) {
    case 'file': {
      const { file, bytes } = job as ListJobs['file']['in'];
      return { value: keep(parseListFile(file, Buffer.from(bytes).toString('utf8'))) };
    }
    case 'body': {
      const { name, source, body } = job as ListJobs['body']['in'];
      return { value: keep(listFromObject(name, source, body)) };
    }
    case 'entries':
      return { value: part(job as ListJobs['entries']['in']) };
  }
}

serveThread(runListJob);
