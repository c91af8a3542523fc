import { describe, expect, it } from 'vitest';
import type { ClientHello } from '../../../src/connections/client-hello.js';
import { judgeFor } from '../../../src/connections/name-rules.js';
import { DeniedNames } from '../../../src/policy/deny-entries.js';
import type { ThreatHit } from '../../../src/policy/threat.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { entriesOf } from '../ruleset/sample.js';

const CHECKS = { verify: true, quic: 'verify', ports: [443] } as const;
const classes = planClasses(
  entriesOf(
    'api.example.com, *.cdn.example:443, old.example:80, direct.example tls=off, hidden.example ech=allow, tcp.example quic=deny',
  ),
  () => [],
  CHECKS,
);
const HIT = {
  feed: 'test',
  listed: 'listed.cdn.example',
  positions: 'line',
  line: 3,
  since: 0,
} as unknown as ThreatHit;
const hello = (name: string, encrypted?: { configId: number }): ClientHello => ({
  name: { kind: 'name', name },
  encrypted,
  hasEarlyData: false,
});
const judge = (proto: 'tcp' | 'udp', port: number, keys: readonly number[] | 'unknown' | undefined = []) =>
  judgeFor(
    classes,
    { proto, port },
    {
      keysOf: () => (typeof keys === 'object' ? new Set(keys) : keys),
      threatOf: (name) => (name === 'listed.cdn.example' ? HIT : undefined),
    },
  );

describe('a name in a hello', () => {
  it.each([
    ['api.example.com', 'tcp', 443, 'api.example.com'],
    ['api.example.com', 'udp', 443, 'api.example.com'],
    ['a.cdn.example', 'tcp', 443, '*.cdn.example:443'],
    ['direct.example', 'tcp', 443, 'direct.example tls=off'],
  ] as const)('%s over %s/%i is permitted by its entry', (name, proto, port, entry) => {
    expect(judge(proto, port).hello(hello(name))).toEqual({ allow: true, name, entry });
  });
  it.each([
    ['cdn.example', 'tcp', 443],
    ['a.cdn.example', 'udp', 443],
    ['old.example', 'tcp', 443],
    ['tcp.example', 'udp', 443],
    ['other.example', 'tcp', 443],
  ] as const)('%s over %s/%i is refused', (name, proto, port) => {
    expect(judge(proto, port).hello(hello(name))).toMatchObject({
      allow: false,
      refusal: { reason: 'server-name', name, detail: expect.stringContaining(`${proto}/${port}`) },
    });
  });
  it('that is missing or invalid is refused with its reason', () => {
    const none = { ...hello(''), name: { kind: 'none' } as const };
    expect(judge('tcp', 443).hello(none)).toMatchObject({ refusal: { reason: 'no-server-name' } });
    const address = {
      ...hello(''),
      name: { kind: 'invalid', text: '192.0.2.1', why: 'an address as name' } as const,
    };
    expect(judge('tcp', 443).hello(address)).toMatchObject({
      refusal: { reason: 'server-name', name: '192.0.2.1' },
    });
  });
});

describe('an encrypted hello', () => {
  it('is refused if it is for a key of the server, unless the entry permits that', () => {
    expect(judge('tcp', 443, [7]).hello(hello('api.example.com', { configId: 7 }))).toMatchObject({
      refusal: { reason: 'ech' },
    });
    expect(judge('tcp', 443, [7]).hello(hello('api.example.com', { configId: 8 }))).toMatchObject({
      allow: true,
    });
    expect(judge('tcp', 443, [7]).hello(hello('hidden.example', { configId: 7 }))).toMatchObject({
      allow: true,
    });
  });
});

describe('an encrypted hello whose keys are not known', () => {
  const encrypted = hello('api.example.com', { configId: 8 });
  it('waits for the record of its name, and is refused if that cannot be looked up', () => {
    const none = judgeFor(
      classes,
      { proto: 'tcp', port: 443 },
      { keysOf: () => undefined, threatOf: () => undefined },
    );
    expect(none.hello(encrypted)).toEqual({ allow: 'later', record: 'api.example.com' });
    expect(judge('tcp', 443, 'unknown').hello(encrypted)).toMatchObject({ refusal: { reason: 'ech' } });
  });
  it('is not looked up for a name that is refused, or whose entry permits it', () => {
    const none = judgeFor(
      classes,
      { proto: 'tcp', port: 443 },
      { keysOf: () => undefined, threatOf: () => undefined },
    );
    expect(none.hello({ ...encrypted, name: { kind: 'name', name: 'evil.example' } })).toMatchObject({
      refusal: { reason: 'server-name' },
    });
    expect(none.hello(hello('hidden.example', { configId: 8 }))).toMatchObject({ allow: true });
  });
});

it('a name that a threat feed lists is refused, though an entry permits it', () => {
  expect(judge('tcp', 443).hello(hello('listed.cdn.example'))).toMatchObject({ refusal: { isThreat: true } });
});

describe('a Host', () => {
  it('is held to the entries of port 80', () => {
    const { request } = judge('tcp', 80);
    expect(request({ kind: 'name', name: 'old.example' })).toMatchObject({ allow: true });
    expect(request({ kind: 'name', name: 'a.cdn.example' })).toMatchObject({ refusal: { reason: 'host' } });
    expect(request({ kind: 'none' })).toMatchObject({ refusal: { reason: 'host' } });
  });
});

describe('deny entries', () => {
  const denied = new DeniedNames(entriesOf('!*.corp.example, !secret.cdn.example:443'));
  const by = (address: string | undefined, names = denied) => {
    const byAddress = () => (address === undefined ? undefined : entriesOf(address));
    return judgeFor(
      classes,
      { proto: 'tcp', port: 443, address: '93.184.7.1' },
      { keysOf: () => new Set([7]), threatOf: () => undefined },
      { names, byAddress },
    );
  };
  it('beat the entries that permit a name, and are named', () => {
    expect(by(undefined).hello(hello('a.cdn.example'))).toMatchObject({ allow: true });
    expect(by(undefined).hello(hello('secret.cdn.example'))).toMatchObject({
      refusal: {
        reason: 'server-name',
        detail: expect.stringContaining('!secret.cdn.example:443 denies it'),
      },
    });
  });
  it('leave all other names of an address that an entry permits', () => {
    expect(by('any').hello(hello('unknown.example'))).toEqual({
      allow: true,
      name: 'unknown.example',
      entry: 'any',
    });
    expect(by(undefined).hello(hello('unknown.example'))).toMatchObject({ allow: false });
    expect(by('any').hello(hello('a.corp.example'))).toMatchObject({ allow: false });
    expect(by('any').request({ kind: 'name', name: 'a.corp.example' })).toMatchObject({
      refusal: { reason: 'host' },
    });
  });
  it('do not let pass what has no name, and say how it may', () => {
    const none = { ...hello(''), name: { kind: 'none' } as const };
    expect(by('any').hello(none)).toMatchObject({
      refusal: { reason: 'no-server-name', detail: expect.stringContaining('any has no flag tls=off') },
    });
  });
  it('permit the address itself as Host, and no other one', () => {
    const host = (text: string) => ({ kind: 'invalid', text, why: 'an address as name' }) as const;
    expect(by('any').request(host('93.184.7.1'))).toMatchObject({ allow: true });
    expect(by('any').request(host('93.184.7.2'))).toMatchObject({ allow: false });
    expect(by(undefined).request(host('93.184.7.1'))).toMatchObject({ allow: false });
    // no server has a certificate for it by this name (RFC 6066 3)
    expect(by('any').hello({ ...hello(''), name: host('93.184.7.1') })).toMatchObject({
      refusal: { reason: 'server-name' },
    });
  });
  it('hold back an encrypted hello whose name cannot be read', () => {
    expect(by('any').hello(hello('a.cdn.example', { configId: 7 }))).toMatchObject({
      refusal: { reason: 'ech' },
    });
    expect(by('any').hello(hello('a.cdn.example', { configId: 8 }))).toMatchObject({ allow: true });
    expect(by('any ech=allow').hello(hello('unknown.example', { configId: 7 }))).toMatchObject({
      allow: true,
    });
  });
  it('never make the record of a name looked up that no entry permits: the query would carry it out', () => {
    const looked: string[] = [];
    const to = { proto: 'tcp', port: 443, address: '93.184.7.1' } as const;
    const keysOf = (name: string): undefined => {
      looked.push(name);
    };
    const denials = { names: denied, byAddress: () => entriesOf('any') };
    const { hello: ruling } = judgeFor(classes, to, { keysOf, threatOf: () => undefined }, denials);
    expect(ruling(hello('unknown.example', { configId: 8 }))).toMatchObject({ refusal: { reason: 'ech' } });
    expect(looked).toEqual([]);
    // the entry of this name is for another port, but permits to resolve it
    expect(ruling(hello('old.example', { configId: 8 }))).toEqual({ allow: 'later', record: 'old.example' });
  });
});
