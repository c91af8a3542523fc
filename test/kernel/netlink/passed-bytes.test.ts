/** The table of bytes that pass without a check, as the kernel has it. What passes is shown by attacks and uploads in the lab. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { PassedBytes, type Stretch } from '../../../src/kernel/netlink/passed-bytes.js';
import { layoutMarks } from '../../../src/ruleset/marks.js';
import { makeNamespace, type Namespace, until } from './lab.js';

const marks = layoutMarks(0x7f003fff);
/** As nft shows a mark. */
const hex = (bits = 0): string => `0x${bits.toString(16).padStart(8, '0')}`;
const STRETCH: Stretch = {
  ...{ source: '10.0.0.2', sourcePort: 4_000, address: '192.0.2.1' },
  ...{ identity: 2, seq: 0xffff_fff0, length: 1_000 },
};
const SIX: Stretch = { ...STRETCH, source: 'fd00::2', address: '2001:db8::1', seq: 256 };

let host: Namespace;
let passed: PassedBytes;
beforeEach(() => {
  host = makeNamespace('passed');
  passed = new PassedBytes(marks, { namespace: host.path });
});
afterEach(() => {
  passed[Symbol.dispose]();
  host[Symbol.dispose]();
});
const listed = (): string => host.run('nft', 'list', 'ruleset');
const elements = (): number => listed().split(' expires ').length - 1;

it('there is no table without an upload, and none when the service has ended', () => {
  expect(listed()).toBe('');
  passed.add(STRETCH, 60_000);
  expect(listed()).toContain('flags owner');
  expect(() => host.run('nft', 'flush', 'table', 'inet', 'drawbridge_bodies')).toThrow(/not permitted/);
  passed[Symbol.dispose]();
  expect(listed()).toBe('');
});

it('an ordinary segment of the client on an established flow that is in the state of requests gets the evaluated bit', () => {
  passed.add(STRETCH, 60_000);
  const [four = '', six = ''] = listed()
    .split('\n')
    .filter((line) => line.includes('meta mark set'));
  const state = `ct mark & ${hex(marks.check?.mask)} == ${hex(marks.check?.requests)}`;
  const segment = 'tcp flags & (fin | syn | rst | ack | urg) == ack';
  for (const condition of ['tcp dport 80', 'ct state & established', 'ct direction original', segment, state])
    for (const rule of [four, six]) expect(rule).toContain(condition);
  const ends = (ip: string): string => `. ${ip} saddr . ${ip} daddr . tcp sport . tcp sequence @bodies`;
  expect(four).toContain(`${ends('ip')}4 meta mark set meta mark | ${hex(marks.evaluated)}`);
  expect(six).toContain(`${ends('ip6')}6 meta mark set meta mark | ${hex(marks.evaluated)}`);
  // nft shows the mask in the other order of bytes
  for (const rule of [four, six]) expect(rule).toMatch(/meta mark & 0x(ff3f0000|00003fff) \./);
  expect(four).toContain('ip version 4 ip hdrlength 5');
  expect(six).toContain('ip6 nexthdr tcp');
});

it('a stretch may go on behind the last sequence number', () => {
  passed.add(STRETCH, 60_000);
  passed.add(SIX, 60_000);
  // a sequence number looks like an IPv4 address
  expect(listed()).toMatch(
    /10\.0\.0\.2 \. 192\.0\.2\.1 \. 4000 \. 255\.255\.255\.240(-255\.255\.255\.255|\/28)/,
  );
  expect(listed()).toMatch(/10\.0\.0\.2 \. 192\.0\.2\.1 \. 4000 \. 0\.0\.0\.0-0\.0\.3\.215/);
  expect(listed()).toMatch(/fd00::2 \. 2001:db8::1 \. 4000 \. 0\.0\.1\.0-0\.0\.4\.231/);
});

it('it is gone once removed, or after its time-out; both may happen', async () => {
  for (const stretch of [STRETCH, SIX]) {
    passed.add(stretch, 60_000);
    passed.remove(stretch);
    passed.remove(stretch);
    expect(elements()).toBe(0);
    passed.add(stretch, 100);
    await until('the end of the stretch', () => elements() === 0);
    passed.remove(stretch);
    passed.add(stretch, 60_000);
    passed.remove(stretch);
  }
});

it('what cannot be added is an error', () => {
  passed.add(STRETCH, 60_000);
  expect(() => passed.add({ ...STRETCH, seq: 5, length: 10 }, 60_000)).toThrow(/EEXIST/);
  expect(() => passed.add({ ...STRETCH, source: 'no address' }, 60_000)).toThrow(/EINVAL|ERANGE|EMSGSIZE/);
  using other = new PassedBytes(marks, { namespace: host.path });
  expect(() => other.add(SIX, 60_000)).toThrow(/EEXIST|EPERM/);
});
