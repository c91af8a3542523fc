/** JSON documents out of other JSON documents: the shape broken on purpose, the syntax whole. */
import type { Random } from './random.js';

/** What readers that trust a shape stumble over. */
const ODD: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1e308,
  0.5,
  '',
  'x',
  '\u0000',
  '__proto__',
  [],
  {},
  [null],
  { '': '' },
  { toString: null, valueOf: null },
  { length: 5 },
];
/** A copy: what is put into a document is changed with it. */
const odd = (random: Random): unknown => structuredClone(random.pick(ODD));

const KEYS = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '', '0', 'length'];

type Holder = { [key: string]: unknown } | unknown[];
const isHolder = (value: unknown): value is Holder => typeof value === 'object' && value !== null;

/** Every list and map of a document, the outermost first; it may be too deep for recursion. */
function holders(value: unknown): Holder[] {
  const found = isHolder(value) ? [value] : [];
  for (let i = 0; i < found.length; i++) found.push(...Object.values(found[i] as Holder).filter(isHolder));
  return found;
}

/** Five such fit into what structuredClone and JSON.stringify go down by recursion. */
const MAX_DEPTH = 500;

function put(holder: Holder, key: string, value: unknown): void {
  Object.defineProperty(holder, key, { value, writable: true, enumerable: true, configurable: true });
}

function deep(random: Random, key: string): unknown {
  let value: unknown = odd(random);
  for (let depth = random.below(MAX_DEPTH); depth > 0; depth--)
    value = random.chance(2) ? [value] : { [key]: value };
  return value;
}

function change(random: Random, all: readonly Holder[], words: readonly string[]): void {
  const holder = random.pick(all);
  const keys = Object.keys(holder);
  const key = keys.length > 0 && !random.chance(4) ? random.pick(keys) : random.pick([...KEYS, ...words]);
  switch (random.below(6)) {
    case 0:
      if (!Array.isArray(holder)) delete holder[key];
      break;
    case 1:
      put(holder, Array.isArray(holder) ? String(holder.length) : key, structuredClone(random.pick(all)));
      break;
    case 2:
      put(holder, Array.isArray(holder) ? '0' : key, random.chance(20) ? deep(random, key) : odd(random));
      break;
    case 3:
      put(holder, Array.isArray(holder) ? '0' : key, [structuredClone(random.pick(all))]);
      break;
    default:
      put(holder, Array.isArray(holder) ? '0' : key, random.pick(words));
  }
}

/** A document with one to five of its places changed. */
export function bend(random: Random, document: unknown, words: readonly string[]): unknown {
  const root = { root: structuredClone(document) };
  for (let left = 1 + random.below(5); left > 0; left--) {
    const all = holders(root.root);
    if (all.length === 0) break;
    change(random, all, words);
  }
  return root.root;
}

export function parsedJson(input: Buffer): unknown {
  try {
    return JSON.parse(input.toString('utf8'));
  } catch {
    return undefined;
  }
}
