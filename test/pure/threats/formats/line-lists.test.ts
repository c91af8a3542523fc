/** Lists of names, in all the ways in which resolvers and browsers are told of them. */
import { describe, expect, it } from 'vitest';
import type { Collector } from '../../../../src/threats/formats/collector.js';
import { ALLOW, BELOW, SELF } from '../../../../src/threats/name-table.js';
import { names, parsed, ranges4 } from '../feed-shape.js';

const both = SELF | BELOW;
const flagsOf = (found: Collector): Record<string, number> =>
  Object.fromEntries(names(found).map((name, i) => [name, found.names.flagsAt(i)]));

describe('names', () => {
  it('plain, wildcard and dotted names stand for all below too', async () => {
    const found = await parsed(
      '# c\nevil.example\n*.worse.example # why\n.worst.example\nBÜCHER.example\n192.0.2.7',
    );
    expect(flagsOf(found)).toEqual({
      'evil.example': both,
      'worse.example': both,
      'worst.example': both,
      'xn--bcher-kva.example': both,
    });
    expect(ranges4(found)).toEqual(['192.0.2.7']);
  });

  it('subdomains: false keeps plain names to themselves', async () => {
    const found = await parsed('evil.example\n*.worse.example', 'domains', { subdomains: false });
    expect(flagsOf(found)).toEqual({ 'evil.example': SELF, 'worse.example': both });
  });

  it('URLs are no names: their host may serve others', async () => {
    const found = await parsed('http://cdn.example/a.exe\nevil.example', 'domains');
    expect([names(found), found.unsupported.count, found.bad.count]).toEqual([['evil.example'], 1, 0]);
  });

  it('hosts: exactly its names; boilerplate left out; no redirects of names to addresses', async () => {
    const text =
      '127.0.0.1 localhost\n::1 ip6-localhost\n255.255.255.255 broadcasthost\nfe80::1%lo0 localhost\n' +
      '0.0.0.0 0.0.0.0\n0.0.0.0 evil.example www.evil.example # both\n192.0.2.9 bank.example\n';
    const found = await parsed(text, 'hosts');
    expect(flagsOf(found)).toEqual({ 'evil.example': SELF, 'www.evil.example': SELF });
    expect(found.bad.samples).toMatchObject([{ line: 7, reason: 'sends names elsewhere, not nowhere' }]);
    expect(found.v4.count + found.v6.count).toBe(0);
    const wide = await parsed('0.0.0.0 evil.example', 'hosts', { subdomains: true });
    expect(flagsOf(wide)).toEqual({ 'evil.example': both });
  });

  it('AdBlock: whole hosts and their exceptions; all else counted', async () => {
    const rules = [
      '[Adblock Plus 2.0]',
      '! comment',
      '||evil.example^',
      '||all.example^$important',
      '@@||good.evil.example^',
      '||192.0.2.7^',
      '||third.example^$third-party',
      '||path.example/x^',
      'example.org##.ad',
      '/banner[0-9]/',
      '||bad..example^',
    ];
    const found = await parsed(rules.join('\n'));
    expect(flagsOf(found)).toEqual({
      'evil.example': both,
      'all.example': both,
      'good.evil.example': ALLOW,
    });
    expect(ranges4(found)).toEqual(['192.0.2.7']);
    expect([found.unsupported.count, found.bad.count]).toEqual([4, 1]);
  });

  it('dnsmasq and unbound', async () => {
    const dnsmasq = await parsed(
      'address=/a.example/b.example/\nlocal=/c.example/\nserver=/d.example/8.8.8.8\n',
    );
    expect(flagsOf(dnsmasq)).toEqual({ 'a.example': both, 'b.example': both, 'c.example': both });
    expect(dnsmasq.unsupported.count).toBe(1);
    const unbound = await parsed(
      'server:\nlocal-zone: "a.example." always_null\nlocal-zone: b.example transparent\n' +
        'local-data: "c.example A 0.0.0.0"\nlocal-data: "d.example A 192.0.2.7"\n',
    );
    expect(flagsOf(unbound)).toEqual({ 'a.example': both, 'b.example': ALLOW, 'c.example': SELF });
    expect(unbound.unsupported.count).toBe(1);
  });
});
