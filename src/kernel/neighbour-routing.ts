import type { NeighbourRoute, NeighbourRoutes, NeighbourRule } from '../ruleset/neighbour-routes.js';
import { ruleKey } from './netlink/rule-codec.js';

/** The kernel's policy routing rules and the table that they lead to. */
export interface RoutingTable {
  rules(): Promise<readonly NeighbourRule[]>;
  routes(): Promise<readonly NeighbourRoute[]>;
  addRules(rules: readonly NeighbourRule[]): Promise<void>;
  removeRules(rules: readonly NeighbourRule[]): Promise<void>;
  setRoutes(routes: readonly NeighbourRoute[]): Promise<boolean>;
  removeRoutes(routes: readonly NeighbourRoute[]): Promise<void>;
}

/** Installed, and no longer wanted. */
type Surplus = NeighbourRoutes;
const NONE: NeighbourRoutes = { rules: [], routes: [] };

/**
 * Keeps the routes between neighbours on bridges without an address as desired. They are installed before the rules that permit
 * any packet there, and removed after these: without them a lifted packet would leave by the host's default route.
 */
export class NeighbourRouting {
  readonly #table: RoutingTable;
  #wanted = NONE;
  /** What is installed, as text; undefined: the kernel must be read first. */
  #installed: string | undefined;
  /** Counts invalidations: one that comes during a change must not be lost. */
  #invalidations = 0;
  /** What is installed and no longer wanted. */
  #surplus: Surplus = NONE;
  /** Bridges that are down: the kernel removes their routes. */
  readonly #down = new Set<number>();

  constructor(table: RoutingTable) {
    this.#table = table;
  }

  /** False on hosts without such bridges. */
  get isUsed(): boolean {
    return this.#wanted.rules.length > 0;
  }

  /** Another process may have changed something. */
  invalidate(): void {
    this.#invalidations++;
    if (this.isUsed) this.#installed = undefined;
  }

  isWanted(rule: NeighbourRule): boolean {
    return this.#wanted.rules.some((r) => ruleKey(r) === ruleKey(rule));
  }

  /** True: a bridge is up again, and its routes are missing. */
  linkChanged(index: number, up: boolean): boolean {
    if (up) return this.#down.delete(index);
    if (this.#wanted.routes.some((r) => r.index === index)) this.#down.add(index);
    return false;
  }

  /** Add what is missing, before the rules change. Rejects with NetlinkError. */
  async add(wanted: NeighbourRoutes): Promise<void> {
    const text = JSON.stringify(wanted);
    this.#wanted = wanted;
    if (text === this.#installed) return;
    this.#installed = undefined;
    const before = this.#invalidations;
    const { isWhole, surplus } = await add(this.#table, wanted);
    this.#surplus = surplus;
    if (isWhole && before === this.#invalidations) this.#installed = text;
  }

  /** Remove what is no longer wanted, after the rules have changed. Rejects with NetlinkError. */
  async removeSurplus(): Promise<void> {
    const surplus = this.#surplus;
    if (surplus.rules.length + surplus.routes.length === 0) return;
    await remove(this.#table, surplus);
    this.#surplus = NONE;
  }

  /** Whether the kernel holds something else than was applied. Rejects with NetlinkError. */
  async isChanged(): Promise<boolean> {
    if (!this.isUsed) return false;
    const d = await difference(this.#table, this.#wanted);
    return [d.addRules, d.removeRules, d.addRoutes, d.removeRoutes].some((some) => some.length > 0);
  }
}

const routeKey = ({ index, subnet }: NeighbourRoute): string => `${index} ${subnet}`;

async function difference(table: RoutingTable, wanted: NeighbourRoutes) {
  const rules = await table.rules();
  const routes = await table.routes();
  return {
    addRules: without(wanted.rules, rules, ruleKey),
    removeRules: without(rules, wanted.rules, ruleKey),
    addRoutes: without(wanted.routes, routes, routeKey),
    removeRoutes: without(routes, wanted.routes, routeKey),
  };
}
function without<T>(these: readonly T[], those: readonly T[], keyOf: (one: T) => string): T[] {
  const keys = new Set(those.map(keyOf));
  return these.filter((one) => !keys.has(keyOf(one)));
}

/** The rules that drop what has no route come first, and the rules that lead to a route after it. */
async function add(
  table: RoutingTable,
  wanted: NeighbourRoutes,
): Promise<{ readonly isWhole: boolean; readonly surplus: Surplus }> {
  const { addRules, removeRules, addRoutes, removeRoutes } = await difference(table, wanted);
  await table.addRules(addRules.filter((r) => r.kind === 'missing'));
  const isWhole = await table.setRoutes(addRoutes);
  await table.addRules(addRules.filter((r) => r.kind !== 'missing'));
  return { isWhole, surplus: { rules: removeRules, routes: removeRoutes } };
}

async function remove(table: RoutingTable, { rules, routes }: Surplus): Promise<void> {
  await table.removeRules(rules.filter((r) => r.kind !== 'missing'));
  await table.removeRoutes(routes);
  await table.removeRules(rules.filter((r) => r.kind === 'missing'));
}

/** Removes every rule and route of Drawbridge; resolves with the subnets that they were for. */
export async function removeNeighbourRoutes(table: RoutingTable): Promise<readonly string[]> {
  const found = { rules: await table.rules(), routes: await table.routes() };
  await remove(table, found);
  return [...new Set([...found.rules, ...found.routes].map((r) => r.subnet))];
}
