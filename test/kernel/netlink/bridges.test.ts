import { afterEach, beforeEach, expect, test } from 'vitest';
import { Bridges, LEARNED_BOUND } from '../../../src/kernel/netlink/bridges.js';
import { Links } from '../../../src/kernel/netlink/links.js';
import { makeNamespace, type Namespace } from './lab.js';

let host: Namespace;
let bridges: Bridges;
let links: Links;
beforeEach(() => {
  host = makeNamespace('bridges');
  bridges = new Bridges({ namespace: host.path });
  links = new Links({ namespace: host.path });
});
afterEach(() => {
  bridges.close();
  links.close();
  host[Symbol.dispose]();
});

function add(...words: readonly string[]): number {
  host.run('ip', 'link', 'add', 'br0', 'type', 'bridge', ...words);
  return links.byName('br0')?.index ?? 0;
}
interface Shown {
  readonly linkinfo: {
    readonly info_data: { readonly fdb_max_learned?: number; readonly no_linklocal_learn?: number };
  };
}
function shown(): { readonly bound: number | undefined; readonly linkLocal: boolean } {
  const [link] = JSON.parse(host.run('ip', '-d', '-j', 'link', 'show', 'br0')) as Shown[];
  const data = link?.linkinfo.info_data;
  return { bound: data?.fdb_max_learned, linkLocal: data?.no_linklocal_learn !== 1 };
}
/** Linux < 6.7 has none. */
const bounded = (bound: number): number | undefined => (shown().bound === undefined ? undefined : bound);

test('a bridge is held, and released to what it was', () => {
  const index = add();
  const before = shown();
  bridges.hold(index);
  expect(shown()).toEqual({ bound: bounded(LEARNED_BOUND), linkLocal: false });
  bridges.hold(index);
  expect(shown()).toEqual({ bound: bounded(LEARNED_BOUND), linkLocal: false });
  expect(bridges.release(index)).toBe(true);
  expect(shown()).toEqual(before);
  expect(bridges.release(index)).toBe(false);
});

test("a bound of somebody else's stays", () => {
  const index = add();
  if (shown().bound === undefined) return;
  host.run('ip', 'link', 'set', 'br0', 'type', 'bridge', 'fdb_max_learned', '7');
  bridges.hold(index);
  expect(shown()).toEqual({ bound: 7, linkLocal: false });
  expect(bridges.release(index)).toBe(false);
  expect(shown().bound).toBe(7);
});

test('what is no bridge, or is gone, is left alone', () => {
  host.run('ip', 'link', 'add', 'a0', 'type', 'veth', 'peer', 'name', 'b0');
  bridges.hold(links.byName('a0')?.index ?? 0);
  expect(bridges.release(links.byName('a0')?.index ?? 0)).toBe(false);
  bridges.hold(9999);
  expect(bridges.release(9999)).toBe(false);
});
