import { describe, expect, it } from 'vitest';
import { classIn, type } from '../../../src/dns/dns-constants.js';
import { buildQuery, matchAnswer } from '../../../src/dns/exchange.js';

const QR = 0x8000;
const HEADER = 12;
const question = {
  name: 'api.example.com',
  type: type.A,
  dnssecOk: false,
  checkingDisabled: false,
  authenticData: false,
};
const { packet: sent } = buildQuery(question, { mixedCase: false, edns: false });
/** The same bytes as an answer, changed. */
function answer(change: (bytes: Buffer) => void = () => undefined): Buffer {
  const bytes = Buffer.from(sent);
  bytes.writeUInt16BE(bytes.readUInt16BE(2) | QR, 2);
  change(bytes);
  return bytes;
}
const end = sent.length;

describe('an answer belongs to a query', () => {
  it('by id, name, type and class', () => {
    expect(matchAnswer(sent, answer())).toBe('ours');
  });
  it.each<[string, (bytes: Buffer) => void]>([
    ['another id', (b) => b.writeUInt16BE((b.readUInt16BE(0) + 1) & 0xffff, 0)],
    ['a query', (b) => b.writeUInt16BE(b.readUInt16BE(2) & ~QR, 2)],
    ['another type', (b) => b.writeUInt16BE(type.AAAA, end - 4)],
    ['another class', (b) => b.writeUInt16BE(classIn + 2, end - 2)],
    ['another name', (b) => b.write('bpi', HEADER + 1, 'latin1')],
    ['no question', (b) => b.writeUInt16BE(0, 4)],
  ])('not with %s', (_, change) => {
    expect(matchAnswer(sent, answer(change))).toBe('foreign');
  });
  it('other letters are told apart', () => {
    expect(
      matchAnswer(
        sent,
        answer((b) => b.write('API', HEADER + 1, 'latin1')),
      ),
    ).toBe('case');
  });
});
