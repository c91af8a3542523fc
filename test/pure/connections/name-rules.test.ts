import { describe, expect, it } from 'vitest';
import type { ClientHello } from '../../../src/connections/client-hello.js';
import { judgeFor } from '../../../src/connections/name-rules.js';
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
const hello = (name: string, encrypted?: { configId: number }): ClientHello => ({
  name: { kind: 'name', name },
  encrypted,
  hasEarlyData: false,
});
const judge = (proto: 'tcp' | 'udp', port: number, echConfigs: readonly number[] = []) =>
  judgeFor(classes, { proto, port, echConfigs: new Set(echConfigs) });

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

describe('a Host', () => {
  it('is held to the entries of port 80', () => {
    const { request } = judge('tcp', 80);
    expect(request({ kind: 'name', name: 'old.example' })).toMatchObject({ allow: true });
    expect(request({ kind: 'name', name: 'a.cdn.example' })).toMatchObject({ refusal: { reason: 'host' } });
    expect(request({ kind: 'none' })).toMatchObject({ refusal: { reason: 'host' } });
  });
});
