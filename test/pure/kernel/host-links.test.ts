import { describe, expect, it } from 'vitest';
import { LinkCache } from '../../../src/kernel/host-links.js';
import type { LocalAddress } from '../../../src/kernel/netlink/addresses.js';
import { HostAddresses } from '../../../src/kernel/netlink/addresses.js';
import type { Link } from '../../../src/kernel/netlink/links.js';

const veth = (index: number, peerIndex: number, mac: string, extra: Partial<Link> = {}): Link => ({
  index,
  name: `veth${index}`,
  kind: 'veth',
  mac,
  peerIndex,
  up: true,
  ...extra,
});
const nobody = { list: async () => [], getLinkInNamespace: () => undefined };

describe('links kept by announcements', () => {
  it('notes the far MAC while both ends are here, and asks for the one that Docker gives it once it is moved', async () => {
    const cache = new LinkCache({ ...nobody, getLinkInNamespace: () => veth(8, 7, '02:42:ac:11:00:02') });
    await cache.all(new Set());
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 3 }));
    cache.put(veth(8, 7, 'ee:00:00:00:00:08'));
    expect(await cache.all(new Set())).toContainEqual(
      expect.objectContaining({ index: 7, peerMac: 'ee:00:00:00:00:08' }),
    );
    cache.remove(veth(8, 7, 'ee:00:00:00:00:08'));
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 3, linkNamespaceId: 4 }));
    expect(await cache.all(new Set())).toMatchObject([
      { index: 7, master: 3, netnsId: 4, peerMac: '02:42:ac:11:00:02' },
    ]);
  });

  it('does not pair a far index that some other link here happens to have', async () => {
    const cache = new LinkCache(nobody);
    await cache.all(new Set());
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { linkNamespaceId: 4 }));
    cache.put(veth(8, 9, '02:00:00:00:00:08'));
    expect((await cache.all(new Set())).find((l) => l.index === 7)?.peerMac).toBeUndefined();
  });

  it('asks once for what was there before it, and not for bound ports', async () => {
    let asked = 0;
    const cache = new LinkCache({
      list: async () => [veth(7, 2, 'aa:00:00:00:00:07', { linkNamespaceId: 1 })],
      getLinkInNamespace: () => {
        asked += 1;
        return veth(2, 7, '02:42:ac:11:00:09');
      },
    });
    expect((await cache.all())[0]?.peerMac).toBeUndefined();
    expect((await cache.all(new Set([7])))[0]?.peerMac).toBeUndefined();
    expect(asked).toBe(0);
    expect((await cache.all(new Set()))[0]?.peerMac).toBe('02:42:ac:11:00:09');
    await cache.all(new Set());
    expect(asked).toBe(1);
  });

  it('lists anew after a loss, and what is announced meanwhile wins', async () => {
    const listed = [veth(7, 8, 'aa:00:00:00:00:07')];
    const cache: LinkCache = new LinkCache({
      list: async () => {
        cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 5 }));
        cache.remove(veth(8, 7, 'aa:00:00:00:00:08'));
        return [...listed, veth(8, 7, 'aa:00:00:00:00:08')];
      },
      getLinkInNamespace: () => undefined,
    });
    cache.put(veth(99, 98, 'aa:00:00:00:00:99'));
    cache.invalidate();
    expect(await cache.all(new Set())).toMatchObject([{ index: 7, master: 5 }]);
  });

  it('says since when a link is known with its master, through losses and moves into a namespace', async () => {
    let now = 10;
    const listed: Link[] = [];
    const cache = new LinkCache({ ...nobody, list: async () => listed }, () => now);
    const since = async (): Promise<number | undefined> => (await cache.all(new Set()))[0]?.since;
    await cache.all(new Set());
    cache.put(veth(7, 8, 'aa:00:00:00:00:07'));
    now = 20;
    expect(await since()).toBe(10);
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 5 }));
    now = 30;
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 5, linkNamespaceId: 4 }));
    expect(await since()).toBe(20);
    listed.push(veth(7, 8, 'aa:00:00:00:00:07', { master: 5, linkNamespaceId: 4 }));
    cache.invalidate();
    expect(await since()).toBe(20);
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 6, linkNamespaceId: 4 }));
    now = 40;
    expect(await since()).toBe(30);
    cache.remove(veth(7, 8, 'aa:00:00:00:00:07'));
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 6 }));
    expect(await since()).toBe(40);
  });

  it('a link that went while announcements were lost is dated again when it is back', async () => {
    let now = 10;
    const listed = [veth(7, 8, 'aa:00:00:00:00:07', { master: 5 })];
    const cache = new LinkCache({ ...nobody, list: async () => listed.slice() }, () => now);
    await cache.all(new Set());
    listed.pop();
    cache.invalidate();
    await cache.all(new Set());
    now = 20;
    cache.put(veth(7, 8, 'aa:00:00:00:00:07', { master: 5 }));
    expect((await cache.all(new Set()))[0]?.since).toBe(20);
  });
});

describe("the host's addresses", () => {
  const at = (address: string, index = 1): LocalAddress => ({
    index,
    family: 4,
    address,
    prefix: 24,
    scope: 0,
  });

  it('are another object exactly when one is added or removed', async () => {
    const own = new HostAddresses({ list: async () => [at('192.0.2.9')] });
    const seen = [own.all];
    const isNew = (): boolean => seen.push(own.all) > 0 && seen.at(-1) !== seen.at(-2);
    expect(isNew()).toBe(false);
    own.put(at('192.0.2.1'));
    expect(isNew()).toBe(true);
    own.put(at('192.0.2.1', 2)); // on a second interface
    expect(isNew()).toBe(false);
    own.gone(at('192.0.2.1'));
    expect(isNew()).toBe(false);
    own.gone(at('192.0.2.1', 2));
    expect(isNew()).toBe(true);
    await own.refresh();
    expect(isNew()).toBe(true);
    expect([...own.all]).toEqual(['192.0.2.9']);
  });
});
