/** Lists of addresses: the lines that they are made of, and those that must not be taken. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseAddress } from '../../../../src/lib/ip.js';
import { Collector } from '../../../../src/threats/formats/collector.js';
import { scanV4, scanV6, stop } from '../../../../src/threats/formats/listed-values.js';
import { parserFor } from '../../../../src/threats/formats/parse-body.js';
import { NOW, parsed, ranges4 } from '../feed-shape.js';

describe('netset', () => {
  it('takes addresses, networks, ranges and comments of all kinds', async () => {
    const found = await parsed(
      '# head\n; also\n// and\n\n192.0.2.7\r\n 198.51.100.0/24 ; SBL1\n203.0.113.4-203.0.113.9\n' +
        '203.0.113.20 - 203.0.113.22 # note\n2001:db8::/32\n2001:DB8::1-2001:db8::5\n\t192.0.2.9\t# tab',
    );
    expect(ranges4(found)).toEqual([
      '192.0.2.7',
      '198.51.100.0-198.51.100.255',
      '203.0.113.4-203.0.113.9',
      '203.0.113.20-203.0.113.22',
      '192.0.2.9',
    ]);
    expect([found.v6.count, found.bad.count, found.entries]).toEqual([2, 0, 7]);
    expect([...found.v4.take().line]).toEqual([5, 6, 7, 8, 11]);
  });

  it.each([
    '1.2.3',
    '010.1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '1..2.3',
    '1.2.3.4/33',
    '1.2.3.4/08',
    '1.2.3.4/24',
    '0x7f.1.1.1',
    '16909060',
    'localhost',
    'example.org',
    '1.2.3.4 5.6.7.8',
    '1.2.3.9-1.2.3.4',
    '1.2.3.4-',
    '1.2.3.4/',
    '::ffff:1.2.3.4',
    'fe80::1%eth0',
    '2001:db8::/129',
    '2001:db8::1/64',
    ':::',
    '1:2:3:4:5:6:7:8:9',
    '1.2.3.4\u00a0',
    '１.2.3.4',
    '-A INPUT -j DROP',
    'add x 1.2.3.4',
  ])('refuses %j, and says which line', async (line) => {
    const found = await parsed(`192.0.2.1\n${line}\n`, 'netset');
    expect([found.entries, found.bad.count, found.bad.samples[0]?.line]).toEqual([1, 1, 2]);
  });

  it('survives a body without line feeds, a BOM, and a last line without one', async () => {
    expect((await parsed('\ufeff192.0.2.7')).entries).toBe(1);
    const long = await parsed(`192.0.2.7\n${'1'.repeat(200_000)}\n192.0.2.8`, 'netset');
    expect([long.entries, long.bad.count, long.bad.samples[0]?.line]).toEqual([2, 1, 2]);
    expect([...long.v4.take().line]).toEqual([1, 3]);
  });

  it('reads the same in chunks of any size', () => {
    const body = Buffer.from('# c\n192.0.2.7\r\n198.51.100.0/24 ; x\nbad\n\n2001:db8::/32');
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 }), (sizes) => {
        const into = new Collector();
        const parser = parserFor('netset', into, { now: NOW });
        let at = 0;
        for (const size of [...sizes, body.length]) {
          parser.push(Uint8Array.from(body.subarray(at, at + size)));
          at = Math.min(at + size, body.length);
        }
        parser.end();
        expect([into.entries, into.bad.count, [...into.v4.take().line]]).toEqual([3, 1, [2, 3]]);
      }),
    );
  });
});

describe('addresses from octets agree with the model', () => {
  const v4ish = fc.oneof(
    fc.ipV4(),
    fc.stringMatching(/^[0-9.]{1,16}$/),
    fc.stringMatching(/^\d{1,4}\.\d{1,4}\.\d{1,4}\.\d{1,4}$/),
  );
  const v6ish = fc.oneof(
    fc.ipV6(),
    fc.stringMatching(/^[0-9a-f:]{2,40}$/),
    fc.stringMatching(/^([0-9a-f]{0,5}:){1,9}[0-9a-f.]{0,10}$/),
  );
  it('v4', () => {
    fc.assert(
      fc.property(v4ish, (text) => {
        const octets = Buffer.from(text);
        const value = scanV4(octets, 0, octets.length);
        const whole = value >= 0 && stop.at === octets.length;
        const model = parseAddress(text);
        expect(whole ? BigInt(value) : undefined).toBe(model?.family === 4 ? model.value : undefined);
      }),
      { numRuns: 2000 },
    );
  });
  it('v6', () => {
    const words = new Uint32Array(4);
    fc.assert(
      fc.property(v6ish, (text) => {
        const octets = Buffer.from(text);
        const ok = scanV6(octets, 0, octets.length, words);
        const model = parseAddress(text);
        const value = words.reduce((sum, word) => (sum << 32n) | BigInt(word), 0n);
        expect(ok ? value : undefined).toBe(model?.family === 6 ? model.value : undefined);
      }),
      { numRuns: 4000 },
    );
  });
});
