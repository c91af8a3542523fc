/**
 * What Drawbridge has found and made on this host, for a teardown without the service and for the guard at boot. It is a file of JSON, and not a
 * part of the small state: both read it where nothing else works, such as a database in a folder that is read-only.
 */

import {
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { asRecord, isRecord, textAt, textsAt } from '../lib/json.js';
import { errorCode } from '../lib/problem.js';

/** Parents of containers' cgroups: what must be known before the next container starts, so it outlives the service. */
export interface Parents {
  readonly known: readonly string[];
  /** Of those, the ones that Drawbridge made. */
  readonly made: readonly string[];
}
/** Chains of the iptables tables by "family table". */
export type Chains = Readonly<Record<string, readonly string[]>>;
interface HostNotes {
  readonly parents: Parents;
  /** Folders of network namespaces. */
  readonly folders: readonly string[];
  /** Before the first start: teardown removes the others. Undefined: not known. */
  readonly chains: Chains | undefined;
  /** `kernel.prefix` of the last start; empty: there was none. */
  readonly prefix: string;
  /** The boot in which Drawbridge has set the sysctl of accounting; empty: it has not. */
  readonly accounting: string;
}

export type ReportProblem = (o: object, message: string) => void;
/** The default for commands, which have no log. */
const onStderr: ReportProblem = (o, message) =>
  void process.stderr.write(`${message}: ${JSON.stringify(o)}\n`);

type Content = Readonly<Record<string, unknown>>;
const FILE = 'host.json';
const VERSION = 1;
/** Far larger than any file of this kind. */
const MOST_BYTES = 16 * 1024 * 1024;
/** Files of earlier versions, each with one of the notes. */
const FORMER: readonly (readonly [name: string, read: (text: string) => Content])[] = [
  ['cgroup-parents.json', (text) => ({ parents: record(JSON.parse(text)) })],
  ['sandbox-folders.json', (text) => ({ folders: JSON.parse(text) })],
  ['kernel-found.json', (text) => ({ chains: withoutVersion(record(JSON.parse(text))) })],
  ['kernel-prefix', (text) => ({ prefix: text.trim() })],
  ['conntrack-accounting', (text) => ({ accounting: text.trim() })],
];

/**
 * A file that cannot be used is renamed (PATH.unusable), so that the next write does not destroy it, and reported: then there are no notes. Files
 * of earlier versions are taken over.
 */
export function readNotes(folder: string, report: ReportProblem = onStderr): HostNotes {
  const content = contentOf(join(folder, FILE), JSON.parse, report);
  if (content) return notesOf(content);
  const found = FORMER.map(([name, read]) => contentOf(join(folder, name), read, report) ?? {});
  const former: Content = Object.assign({}, ...found);
  const notes = notesOf(former);
  try {
    if (Object.keys(former).length > 0) replace(folder, notes);
  } catch (e) {
    report({ folder, err: String(e) }, 'notes of an earlier version about this host stay in their own files');
  }
  return notes;
}

/** Replaces these notes durably; on failure the old file stays. Throws the error of the file system. */
export function writeNotes(folder: string, notes: Partial<HostNotes>): void {
  replace(folder, { ...readNotes(folder), ...notes });
}

function replace(folder: string, notes: HostNotes): void {
  const path = join(folder, FILE);
  const file = openSync(`${path}.tmp`, 'w', 0o600);
  try {
    writeFileSync(file, JSON.stringify({ version: VERSION, ...notes }));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(`${path}.tmp`, path);
  for (const [name] of FORMER) rmSync(join(folder, name), { force: true });
}

function notesOf(content: Content): HostNotes {
  const parents = asRecord(content.parents);
  const chains = asRecord(content.chains);
  return {
    parents: { known: textsAt(parents, 'known'), made: textsAt(parents, 'made') },
    folders: textsAt(content, 'folders'),
    chains: chains && Object.fromEntries(Object.keys(chains).map((table) => [table, textsAt(chains, table)])),
    prefix: textAt(content, 'prefix'),
    accounting: textAt(content, 'accounting'),
  };
}

/** Undefined: there is no such file, or it cannot be used. */
function contentOf(
  path: string,
  read: (text: string) => unknown,
  report: ReportProblem,
): Content | undefined {
  try {
    const { size } = statSync(path);
    if (size > MOST_BYTES) throw new Error(`it has ${size} bytes`);
    const content = record(read(readFileSync(path, 'utf8')));
    if ((content.version ?? VERSION) !== VERSION)
      throw new Error(`it has version ${String(content.version)}`);
    if (content.chains !== undefined) withoutVersion(record(content.chains));
    return content;
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    const aside = `${path}.unusable`;
    report({ file: path, why: String(e), aside }, 'notes about this host cannot be read: they are not used');
    renameUnlessReadOnly(path, aside);
    return undefined;
  }
}

function record(content: unknown): Content {
  if (isRecord(content)) return content;
  throw new Error('its content has another structure');
}

function withoutVersion({ version: _, ...chains }: Content): Content {
  if (Object.values(chains).every(Array.isArray)) return chains;
  throw new Error('its content has another structure');
}

function renameUnlessReadOnly(path: string, to: string): void {
  try {
    renameSync(path, to);
  } catch {
    // It stays where it is, and is reported again.
  }
}
