/** Whose a new namespace is: only by what Docker was asked for after it appeared. */
import { expect, it } from 'vitest';
import { LanClaims, type LanClaimsOptions } from '../../../src/control/lan-claims.js';

const ADDRESS = '10.66.0.7';
const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
type Awaited = ReturnType<LanClaimsOptions['awaited']>;
const awaited = (id: string, askedAt: number, isEnforced: boolean): Awaited[number] => ({
  id,
  endpoints: [{ networkId: 'n', mac: '', ip4: ADDRESS, dnsNames: [], askedAt }],
  isEnforced: () => isEnforced,
});

function claiming(first: Awaited) {
  let all = first;
  const done: string[] = [];
  const asked: string[] = [];
  const claims = new LanClaims({
    kernel: {
      close: () => void done.push('closed'),
      remove: () => done.push('opened') > 0,
      ends: async () => [{ mac: '', addresses: [ADDRESS] } as never],
    },
    awaited: () => all,
    askAgain: (network) => void asked.push(network),
    onClaim: (container) => void done.push(`claimed by ${container}`),
    log: quiet,
  });
  claims.appeared('/sandbox');
  return { claims, done, asked, set: (next: Awaited) => (all = next) };
}
const settled = () => new Promise((done) => setTimeout(done, 40));

it('an observed container that was asked for before does not open the namespace of the next holder of its address', async () => {
  const { claims, done, asked, set } = claiming([awaited('gone', 0, false), awaited('other', 0, true)]);
  await settled();
  expect(done).toEqual(['closed']);
  expect(asked).toEqual(['n']);
  set([awaited('heir', performance.now(), true)]);
  await expect.poll(() => done).toEqual(['closed', 'claimed by heir']);
  claims.end();
});

it('what was asked for after it appeared tells, and opens where nothing is enforced', async () => {
  const { done, set } = claiming([awaited('a', 0, false)]);
  set([awaited('a', performance.now() + 1, false)]);
  await expect.poll(() => done).toEqual(['opened']);
});
