/** Rules and routes between neighbours, over rtnetlink. */
import type { NeighbourRoute, NeighbourRule } from '../../ruleset/neighbour-routes.js';
import { FLAG } from './codec.js';
import { isRefusal, NetlinkError } from './errors.js';
import {
  decodeRoute,
  decodeRule,
  RULE_MESSAGE,
  routeBody,
  routeDumpBody,
  ruleBody,
  ruleDumpBody,
} from './rule-codec.js';
import { NetlinkSocket, type Outgoing } from './socket.js';

const REPLACE = 0x100;
/** Acknowledgements of so many fit any receive buffer. */
const BATCH = 64;

export class PolicyRoutes implements Disposable {
  readonly #changes: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#changes = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', strict: true, ...options });
  }

  /** Rules that Drawbridge has added. Rejects with NetlinkError. */
  async rules(): Promise<readonly NeighbourRule[]> {
    const out = { type: RULE_MESSAGE.getRule, body: ruleDumpBody() };
    try {
      return await this.#dumps.dump('list policy routing rules', out, (m) => decodeRule(m.body));
    } catch (error) {
      if (isRefusal(error, 'ENOTSUP')) return []; // a kernel without policy routing (CONFIG_IP_MULTIPLE_TABLES)
      throw error;
    }
  }

  /** Routes of Drawbridge's table. Rejects with NetlinkError. */
  async routes(): Promise<readonly NeighbourRoute[]> {
    const out = { type: RULE_MESSAGE.getRoute, body: routeDumpBody() };
    try {
      return await this.#dumps.dump('list routes to neighbours', out, (m) => decodeRoute(m.body));
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return []; // no route was ever added to the table
      throw error;
    }
  }

  /** Rejects with NetlinkError. */
  async addRules(rules: readonly NeighbourRule[]): Promise<void> {
    const flags = FLAG.create | FLAG.exclusive;
    const outs = rules.map((r) => ({ type: RULE_MESSAGE.newRule, flags, body: ruleBody(r) }));
    await this.#send('add policy routing rules', outs, ['EEXIST']);
  }

  /** Rejects with NetlinkError. */
  async removeRules(rules: readonly NeighbourRule[]): Promise<void> {
    const outs = rules.map((r) => ({ type: RULE_MESSAGE.deleteRule, body: ruleBody(r) }));
    await this.#send('remove policy routing rules', outs, ['ENOENT']);
  }

  /** False: a bridge is down or has gone meanwhile. Rejects with NetlinkError. */
  setRoutes(routes: readonly NeighbourRoute[]): Promise<boolean> {
    const flags = FLAG.create | REPLACE;
    const outs = routes.map((r) => ({ type: RULE_MESSAGE.newRoute, flags, body: routeBody(r) }));
    return this.#send('add routes to neighbours', outs, ['ENETDOWN', 'ENODEV', 'ENETUNREACH']);
  }

  /** Rejects with NetlinkError. */
  async removeRoutes(routes: readonly NeighbourRoute[]): Promise<void> {
    const outs = routes.map((r) => ({ type: RULE_MESSAGE.deleteRoute, body: routeBody(r) }));
    await this.#send('remove routes to neighbours', outs, ['ESRCH', 'ENOENT']);
  }

  close(): void {
    this.#changes.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  /** False: the kernel has refused some with one of `expected`. */
  async #send(operation: string, outs: readonly Outgoing[], expected: readonly string[]): Promise<boolean> {
    const refused: NetlinkError[] = [];
    for (let i = 0; i < outs.length; i += BATCH)
      for (const { errno, text } of await this.#changes.requestLater(operation, outs.slice(i, i + BATCH)))
        if (errno !== 0)
          refused.push(new NetlinkError(operation, errno, text === undefined ? {} : { kernelText: text }));
    const other = refused.find((e) => !expected.includes(e.code));
    if (other) throw other;
    return refused.length === 0;
  }
}
