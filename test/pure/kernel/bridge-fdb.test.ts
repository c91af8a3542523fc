import { expect, it } from 'vitest';
import { BridgeFdb, type PortChange } from '../../../src/kernel/bridge-fdb.js';

const turns = (n: number): Promise<void> =>
  n === 0 ? Promise.resolve() : Promise.resolve().then(() => turns(n - 1));
const veth = { master: 3, mac: '02:00:00:00:00:01', flood: false };
const held = (...indexes: number[]) => new Map(indexes.map((i) => [i, veth]));

it.each(Array.from({ length: 24 }, (_, n) => n))(
  'what is wanted %i turns after a change was asked for is not forgotten',
  async (n) => {
    const asked: number[][] = [];
    const table = {
      ports: async () => [],
      entries: async () => [],
      change: async (changes: readonly PortChange[]) => {
        asked.push(changes.map((c) => c.index));
        return [];
      },
    };
    const forwarding = new BridgeFdb(table, { warn: () => undefined });
    forwarding.apply(held(1));
    await turns(n);
    forwarding.apply(held(1, 2));
    await new Promise((done) => setImmediate(done));
    expect(new Set(asked.flat())).toEqual(new Set([1, 2]));
    forwarding.close();
  },
);
