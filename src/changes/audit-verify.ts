import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { auditFilesIn, firstOf } from '../store/state-file.js';
import {
  AUDIT_FORMAT,
  type FileHeader,
  follows,
  GENESIS,
  headerOf,
  type Line,
  parseLine,
} from './audit-chain.js';
import { DROP } from './audit-file.js';

interface AuditFault {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly what: string;
}
/** Whether the audit's files are as they were written. */
export interface AuditVerdict {
  readonly ok: boolean;
  readonly files: number;
  readonly records: number;
  /** The oldest and newest record; null: there is none. */
  readonly first: { readonly n: number; readonly time: string } | null;
  readonly last: { readonly n: number; readonly time: string; readonly hash: string } | null;
  /** Records that were deleted because of the byte budget, as later records show. */
  readonly dropped: number;
  /** Of the hash that was asked for: whether a line has it. Null: none was asked for. */
  readonly contains: boolean | null;
  readonly faults: readonly AuditFault[];
}

const MOST_FAULTS = 20;

/** Checks every line of the audit in this state folder against the one before. Needs no service and changes nothing. */
export async function verifyAudit(dir: string, hash?: string): Promise<AuditVerdict> {
  const chain = new Chain(hash);
  const names = await auditFilesIn(dir);
  for (const [i, name] of names.entries()) await readSegment(chain, dir, name, i === names.length - 1);
  return chain.verdict(names);
}

/** Only the newest file may end in a line that is not whole: it is being written, or the host went down meanwhile. */
async function readSegment(chain: Chain, dir: string, name: string, isNewest: boolean): Promise<void> {
  chain.begin(name);
  const bytes = await readFile(join(dir, name));
  let at = 0;
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, at)) {
    chain.take(bytes.toString('utf8', at, end));
    at = end + 1;
  }
  if (at < bytes.length && !isNewest) chain.take(bytes.toString('utf8', at));
}

class Chain {
  readonly #wanted: string | undefined;
  readonly #faults: AuditFault[] = [];
  readonly #drops: { readonly first: number; readonly last: number }[] = [];
  #file = '';
  #line = 0;
  #previous: string | undefined;
  #n = 0;
  #records = 0;
  #oldest: FileHeader | undefined;
  #first: AuditVerdict['first'] = null;
  #last: AuditVerdict['last'] = null;
  #contains = false;

  constructor(wanted: string | undefined) {
    this.#wanted = wanted;
  }

  begin(file: string): void {
    this.#file = file;
    this.#line = 0;
  }

  take(text: string): void {
    this.#line++;
    const line = parseLine(text);
    if (!line) {
      this.#fault('this is not a line of an audit: it was changed or damaged');
      return;
    }
    const header = this.#line === 1 ? headerOf(line) : undefined;
    if (this.#line === 1) this.#header(header);
    else if (headerOf(line)) this.#fault('a header inside of the file');
    if (this.#previous !== undefined && !follows(this.#previous, line))
      this.#fault('its hash does not fit it and the line before: one of them was changed, removed or put in');
    this.#previous = line.hash;
    this.#contains ||= line.hash === this.#wanted;
    if (!header) this.#record(line);
  }

  verdict(names: readonly string[]): AuditVerdict {
    const dropped = this.#oldest ? this.#oldest.first - 1 : 0;
    const [name = ''] = names;
    const isCovered = this.#drops.some((d) => d.last === dropped);
    if (dropped > 0 && !isCovered)
      this.#faults.unshift({
        file: name,
        line: 1,
        what: `records 1 to ${dropped} are missing, and no record says that the budget has deleted them`,
      });
    const contains = this.#wanted === undefined ? null : this.#contains;
    return {
      ok: this.#faults.length === 0 && contains !== false,
      files: names.length,
      records: this.#records,
      first: this.#first,
      last: this.#last,
      dropped,
      contains,
      faults: this.#faults,
    };
  }

  #header(header: FileHeader | undefined): void {
    if (!header) {
      this.#fault('the file does not begin with a header');
      return;
    }
    if (header.drawbridgeAudit > AUDIT_FORMAT)
      this.#fault(
        `written by a newer version of Drawbridge (format ${header.drawbridgeAudit}): it cannot be checked`,
      );
    if (header.first !== firstOf(this.#file))
      this.#fault(`the file has the name of another one: it begins with record ${header.first}`);
    if (this.#previous === undefined) {
      this.#oldest = header;
      this.#previous = header.previous;
      this.#n = header.first - 1;
      if (header.first === 1 && header.previous !== GENESIS)
        this.#fault('the first file continues another one');
      return;
    }
    if (header.previous !== this.#previous || header.first !== this.#n + 1) {
      this.#fault(
        `it continues record ${header.first - 1}, and the file before ends with record ${this.#n}, or another one of that number`,
      );
      [this.#previous, this.#n] = [header.previous, header.first - 1];
    }
  }

  #record(line: Line): void {
    const { n, time, action, before } = line.content;
    this.#records++;
    this.#n++;
    if (n !== this.#n) {
      this.#fault(`record ${String(n)} is in the place of record ${this.#n}`);
      if (Number.isSafeInteger(n)) this.#n = Number(n);
    }
    const at = { n: this.#n, time: String(time) };
    this.#first ??= at;
    this.#last = { ...at, hash: line.hash };
    if (action === DROP) this.#drops.push(before as { first: number; last: number });
  }

  #fault(what: string): void {
    if (this.#faults.length < MOST_FAULTS) this.#faults.push({ file: this.#file, line: this.#line, what });
  }
}
