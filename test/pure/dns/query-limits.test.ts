import { expect, it } from 'vitest';
import { FairQueue as Turns } from '../../../src/dns/query-limits.js';

it('one question of an asker waits behind one of each other, not behind all', async () => {
  const turns = new Turns();
  const order: string[] = [];
  const ask = (asker: string) => turns.take(asker).then(() => order.push(asker));
  const storm = Array.from({ length: 500 }, () => ask('storm'));
  const wild = Array.from({ length: 500 }, () => ask('wild'));
  await ask('calm');
  expect(order.length).toBeLessThan(10);
  await Promise.all([...storm, ...wild]);
  expect(order.filter((a) => a === 'storm')).toHaveLength(500);
});
