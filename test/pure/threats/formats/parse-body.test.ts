/** Packed bodies: read, bounded, and refused in words when damaged. */
import { gzipSync } from 'node:zlib';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { type ParseOutcome, parseBody } from '../../../../src/threats/formats/parse-body.js';

const TEXT = '192.0.2.7\n198.51.100.0/24\n';
/** TEXT through xz -9, with CRC64. */
const XZ = Buffer.from(
  '/Td6WFoAAATm1rRGBMAeGiEBHAAAAAAAAAAAADUMD+ABABkxOTIuMC4yLjcKMTk4LjUxLjEwMC4wLzI0CgAAAP8guJjI5nDtAAE6GiiSTfgftvN9AQAAAAAEWVo=',
  'base64',
);
const zip = (files: Record<string, string>): Uint8Array =>
  zipSync(Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)])));

const parse = (body: Uint8Array, extras: { maxSize?: number; member?: string } = {}): Promise<ParseOutcome> =>
  parseBody(body, { format: 'auto', maxSize: 1e6, maxFound: 1e6, now: 0, ...extras });
const entries = (outcome: ParseOutcome): number | string =>
  outcome.ok ? outcome.found.entries : outcome.reason;

describe('packed bodies', () => {
  it('gzip (also of several members), xz and zip read like the plain one', async () => {
    const twice = Buffer.concat([gzipSync(TEXT), gzipSync('203.0.113.9\n')]);
    expect(entries(await parse(Buffer.from(TEXT)))).toBe(2);
    expect(entries(await parse(gzipSync(TEXT)))).toBe(2);
    expect(entries(await parse(twice))).toBe(3);
    expect(entries(await parse(XZ))).toBe(2);
    expect(entries(await parse(zip({ 'list.txt': TEXT })))).toBe(2);
  });

  it('a zip of several files needs the name of one', async () => {
    const both = zip({ 'readme.txt': 'x', 'list.txt': TEXT });
    expect(entries(await parse(both))).toMatch(/several files \(readme.txt, list.txt\)/);
    expect(entries(await parse(both, { member: 'list.txt' }))).toBe(2);
    expect(entries(await parse(both, { member: 'other' }))).toBe('the zip contains no "other"');
  });

  it('damage and cuts are told', async () => {
    expect(entries(await parse(gzipSync(TEXT).subarray(0, 20)))).toMatch(/gzip body is damaged or was cut/);
    expect(entries(await parse(XZ.subarray(0, 60)))).toMatch(/xz body is damaged or was cut/);
    expect(entries(await parse(zip({ 'list.txt': TEXT }).subarray(0, 50)))).toMatch(/zip body is/);
    const bent = Buffer.from(XZ);
    bent[30] = (bent[30] as number) ^ 0xff;
    expect(entries(await parse(bent))).toMatch(/xz body is damaged/);
  });

  it('bombs end at the limit', async () => {
    const zeros = '192.0.2.7\n'.repeat(200_000);
    for (const bomb of [gzipSync(zeros), zip({ a: zeros })])
      expect(entries(await parse(bomb))).toMatch(/bigger than 1000000 octets/);
    expect(entries(await parse(Buffer.from(zeros)))).toMatch(/bigger than 1000000 octets/);
  });
});
