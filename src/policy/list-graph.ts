import { matchesAny } from '../lib/glob.js';
import { isDest } from './entry-parse.js';
import type { List } from './policy.js';

const refsOf = (list: List | undefined): readonly string[] =>
  list?.allow.flatMap((entry) => (isDest(entry) ? [] : [entry.list])) ?? [];

/** A list on the path of the walk: `next` is the reference that is followed next. */
interface Step {
  readonly name: string;
  readonly refs: readonly string[];
  next: number;
}

/**
 * Tarjan's strongly connected components, without recursion: each list and each reference is visited once. Lists that reach each
 * other are one component.
 */
class Components {
  readonly cyclic = new Set<string>();
  readonly #lists: ReadonlyMap<string, List>;
  readonly #index = new Map<string, number>();
  readonly #low = new Map<string, number>();
  readonly #open: string[] = [];
  readonly #isOpen = new Set<string>();

  constructor(lists: ReadonlyMap<string, List>) {
    this.#lists = lists;
    for (const name of lists.keys()) if (!this.#index.has(name)) this.#walk(name);
  }

  #walk(from: string): void {
    const path = [this.#enter(from)];
    for (let step = path.at(-1); step !== undefined; step = path.at(-1)) {
      const ref = step.refs[step.next++];
      if (ref === undefined) {
        path.pop();
        this.#leave(step, path.at(-1));
      } else if (!this.#index.has(ref) && this.#lists.has(ref)) path.push(this.#enter(ref));
      else if (this.#isOpen.has(ref)) this.#lower(step.name, this.#index.get(ref) ?? 0);
    }
  }

  #enter(name: string): Step {
    const index = this.#index.size;
    this.#index.set(name, index);
    this.#low.set(name, index);
    this.#open.push(name);
    this.#isOpen.add(name);
    return { name, refs: refsOf(this.#lists.get(name)), next: 0 };
  }

  #lower(name: string, to: number): void {
    this.#low.set(name, Math.min(this.#low.get(name) ?? to, to));
  }

  #leave({ name, refs }: Step, parent: Step | undefined): void {
    const low = this.#low.get(name) ?? 0;
    if (parent) this.#lower(parent.name, low);
    if (low !== this.#index.get(name)) return;
    const component = this.#open.splice(this.#open.lastIndexOf(name));
    for (const one of component) this.#isOpen.delete(one);
    if (component.length > 1 || refs.includes(name)) for (const one of component) this.cyclic.add(one);
  }
}

/** Names of the lists that include themselves, directly or through others. */
export function cyclicLists(lists: ReadonlyMap<string, List>): readonly string[] {
  const { cyclic } = new Components(lists);
  return [...lists.keys()].filter((name) => cyclic.has(name));
}

/** Whether a list counts at this host: its `hosts` has a glob that fits, or it has none. */
export const isForHost = ({ hosts }: Pick<List, 'hosts'>, node: string | undefined): boolean =>
  hosts === undefined || (node !== undefined && matchesAny(hosts, node));
