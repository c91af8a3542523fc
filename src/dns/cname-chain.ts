/** Which records of an answer belong to the question: the asked name's CNAME chain and its end, nothing else. */
import { classIn, type } from './types.js';
import type { ResourceRecord } from './wire.js';
import { isWithin, readName } from './wire-name.js';

/** Names in one chain; real ones have two or three. */
export const maxChain = 16;

export interface Chain {
  /** Records to keep, as they stood. */
  readonly records: readonly ResourceRecord[];
  /** The last name of the chain, lower case. */
  readonly end: string;
  /** A record of the asked type stands at the end. */
  readonly complete: boolean;
  /** The chain bites its tail or is too long: no answer can come of it. */
  readonly broken: boolean;
  /** Names of the chain, asked name first. */
  readonly names: readonly string[];
}

/** The name inside rdata that is a name and nothing else (CNAME, DNAME, PTR), lower case. */
function dataName(record: ResourceRecord): string {
  return readName(record.data, 0).name.toLowerCase();
}

function aliases(answers: readonly ResourceRecord[]): Map<string, string> {
  const map = new Map<string, string>();
  for (const r of answers) {
    if (r.type === type.CNAME && !map.has(r.name.toLowerCase())) map.set(r.name.toLowerCase(), dataName(r));
  }
  return map;
}

function walk(name: string, answers: readonly ResourceRecord[]): { names: string[]; broken: boolean } {
  const next = aliases(answers);
  const names = [name];
  for (let at = next.get(name); at !== undefined; at = next.get(at)) {
    if (names.includes(at) || names.length >= maxChain) return { names, broken: true };
    names.push(at);
  }
  return { names, broken: false };
}

/** Follows the chain of `name` (lower case) within `answers`. */
export function followChain(name: string, asked: number, answers: readonly ResourceRecord[]): Chain {
  const ours = answers.filter((r) => r.class === classIn);
  const follow = asked !== type.CNAME && asked !== type.ANY;
  const { names, broken } = follow ? walk(name, ours) : { names: [name], broken: false };
  const known = new Set(names);
  const end = names[names.length - 1] ?? name;
  const records = ours.filter((r) => {
    const owner = r.name.toLowerCase();
    if (r.type === type.DNAME && asked !== type.DNAME)
      return names.some((n) => n !== owner && isWithin(n, owner));
    if (r.type === asked) return owner === end;
    return known.has(owner) && (asked === type.ANY || r.type === type.CNAME || r.type === type.RRSIG);
  });
  const complete = records.some(
    (r) => r.name.toLowerCase() === end && (r.type === asked || asked === type.ANY),
  );
  return { records, end, complete, broken, names };
}
