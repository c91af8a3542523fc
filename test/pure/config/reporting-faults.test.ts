import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Config, readForService } from '../../../src/config/config.js';
import { socketIn } from '../../../src/config/service-socket.js';

const STATE = '/var/lib/drawbridge';
const LOCAL = `unix:${join(STATE, 'api.sock')}`;
function read(value: unknown, former?: Config, env: Readonly<Record<string, string>> = {}) {
  return readForService({ file: { name: 'config.yaml', text: JSON.stringify(value) }, env }, former);
}
function used(value: unknown, former?: Config, env: Readonly<Record<string, string>> = {}): Config {
  const parsed = read(value, former, env);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.value;
}
const sound = { name: 'chat', url: 'https://chat.example/hook', kind: 'slack', events: ['flow:denied'] };

describe('an error in a section of what reports', () => {
  it.each([
    [{ api: { listen: 'nowhere' } }, LOCAL],
    [{ api: { listen: 7070 } }, LOCAL],
    [{ api: { listen: '127.0.0.1:7070', tokens: [{ name: 'a b', token: 'x' }] } }, LOCAL],
    [{ api: { listen: '127.0.0.1:7070', bogus: 1 } }, LOCAL],
    [{ api: { listen: 'unix:/run/other.sock', bogus: 1 } }, 'unix:/run/other.sock'],
    [{ api: { bogus: 1 } }, 'unix:/run/drawbridge/api.sock'],
    [{ api: 7 }, LOCAL],
  ])('%j: only the unix socket %s', (value, listen) => {
    const { api, faults, default: mode } = used({ default: 'enforce', ...value });
    expect({ api, mode }).toEqual({ api: { listen, tokens: [] }, mode: 'enforce' });
    expect(faults.length).toBeGreaterThan(0);
    expect(faults[0]?.remedy).not.toBe('');
  });

  it('takes the valid keys of flows, and the receivers without an error', () => {
    const { flows, notify, faults } = used({
      flows: { keep: '3 days', maxSize: '1MB', unknown: true },
      notify: [{ ...sound, url: 'no address' }, sound, { ...sound, name: 'b', more: 1 }],
    });
    expect(flows).toMatchObject({ keepMs: 7 * 86_400_000, maxSizeBytes: 1e6 });
    expect(notify.map(({ name }) => name)).toEqual(['chat']);
    const both = used({
      notify: [
        { ...sound, more: 1 },
        { ...sound, name: 'b' },
        { ...sound, name: 'b' },
      ],
    });
    expect([both.notify, both.faults.length]).toEqual([[], 2]);
    expect(faults.map(({ pointer }) => pointer?.split('/')[1]).sort()).toEqual([
      'flows',
      'flows',
      'notify',
      'notify',
    ]);
  });

  it('keeps the listener and the time of flows when the file is read again, and says so', () => {
    const tokens = [{ name: 'ci', role: 'read' as const, token: `sha256:${'0'.repeat(64)}` }];
    const former = used({
      api: { listen: '127.0.0.1:7070', tokens },
      flows: { keep: '30d', syslog: 'udp://198.51.100.1:514' },
      notify: [sound],
    });
    expect(former.faults).toEqual([]);
    const next = {
      api: { listen: 'wrong', tokens },
      flows: { keep: 'x' },
      notify: [{ name: 'chat' }],
      default: 'enforce',
    };
    const now = used(next, former);
    expect(now).toMatchObject({
      api: former.api,
      flows: { keepMs: former.flows.keepMs, syslog: '' },
      notify: [],
      default: 'enforce',
    });
    const said = now.faults.map(({ detail }) => detail).join('\n');
    expect(said).toMatch(
      /api: the listener of before stays in force(.|\n)*flows: keep and maxSize of before stay/,
    );
    // Commands know the file only: they find the service where it listens.
    expect(used({ ...next, api: { listen: 'unix:/x', no: 1 } }, former).api).toEqual({
      listen: 'unix:/x',
      tokens: [],
    });
    expect(used(next, { ...former, api: { listen: 'unix:/before', tokens } }).api.listen).toBe(LOCAL);
  });

  it('is told without what may be a secret: a value, a key in the place of one, a text of a variable', () => {
    const secret = 'T0K3N-of-the-webhook';
    const url = `https://hooks.example/${secret}`;
    for (const [value, env] of [
      [{ notify: [{ ...sound, url: ` ${url}` }] }],
      [{ notify: [{ ...sound, kind: url }] }],
      [{ notify: [url] }],
      [{ notify: [{ ...sound, [url]: null }] }],
      [{ notify: [{ ...sound, [secret]: 1 }] }],
      [{ notify: { [secret]: sound } }],
      [{ api: { tokens: [secret] } }],
      [{ api: { tokens: [{ name: `a ${secret}`, role: 'read', token: secret }] } }],
      [{ api: { tokens: [{ name: 'a', role: 'read', token: ` ${secret}` }] } }],
      [{ api: { tokens: [{ name: 'a', role: secret, token: 'x' }] } }],
      [{ api: { [secret]: 1 } }],
      [{ api: { listen: url } }],
      [{ flows: { syslog: url } }],
      [{ flows: { keep: secret } }],
      [{}, { DRAWBRIDGE_API_TOKENS: secret }],
      [{}, { DRAWBRIDGE_NOTIFY: `[{ kind: slack, url: '${url} x' }]`, DRAWBRIDGE_API_LISTEN: url }],
    ] as const) {
      const { faults } = used(value, undefined, env);
      expect(faults.length, JSON.stringify(value)).toBeGreaterThan(0);
      expect(JSON.stringify(faults)).not.toContain(secret);
      for (const { detail, remedy } of faults)
        expect([detail, remedy].every((text) => text.length > 5)).toBe(true);
    }
    // A word that was meant as a key is named.
    expect(used({ api: { bogus: 1 } }).faults[0]?.detail).toBe('unknown key api.bogus');
  });

  it('the same where it stops the start: the password of Redis, the address of a feed', () => {
    const secret = 'pa55-w0rd';
    for (const value of [
      { store: { redis: `rediss://u:${secret}@ host` } },
      { threats: { feeds: [{ name: 'f', url: ` https://u:${secret}@feed.example` }] } },
      { threats: { feeds: [{ name: 'f', url: 'https://feed.example', format: secret }] } },
    ]) {
      const parsed = read({ ...value, dns: { grace: 'often' } });
      const texts = JSON.stringify(parsed.ok ? [] : parsed.problems);
      expect(texts).not.toContain(secret);
      expect(texts).toContain('often');
    }
  });

  const hash = (digit: string): string => `sha256:${digit.repeat(64)}`;
  const ci = { name: 'ci', role: 'read', token: hash('0') };
  it.each([
    ['taken out', [{ name: 'other', role: 'read', token: hash('1') }]],
    ['all taken out', []],
    ['without the key', undefined],
    ['no list', 7],
    ['with another secret', [{ ...ci, token: hash('2') }]],
    ['with another role', [{ ...ci, role: 'admin' }]],
    ['with a secret that is not valid', [{ ...ci, token: 'sha256:1' }]],
    ['with an unknown key', [{ ...ci, until: 'friday' }]],
    ['twice, once with another secret', [ci, { ...ci, token: hash('2') }]],
  ])('a token that the file has %s does not stay valid, whatever the error is', (_, tokens) => {
    const former = used({ api: { listen: '127.0.0.1:7070', tokens: [ci] } });
    for (const error of [{ bogus: 1 }, { listen: 'wrong' }]) {
      const { api, faults } = used({ api: { listen: '127.0.0.1:7070', tokens, ...error } }, former);
      expect(api).toEqual({ listen: '127.0.0.1:7070', tokens: [] });
      expect(faults.length).toBeGreaterThan(1);
    }
    const kept = used({ api: { listen: 'wrong', tokens: [ci] } }, former);
    expect(kept.api.tokens).toEqual([ci]);
  });

  it('a receiver that the file does not have any more gets nothing, nor an output of flows', () => {
    const former = used({
      notify: [sound, { ...sound, name: 'old' }],
      flows: { file: '/var/log/flows.json' },
    });
    const { notify, flows } = used(
      { notify: [sound, { ...sound, name: 'new', kind: 'pigeon' }], flows: { bogus: 1 } },
      former,
    );
    expect(notify.map(({ name }) => name)).toEqual(['chat']);
    expect(flows.file).toBe('');
  });

  it('is one, too, where a variable has it', () => {
    for (const env of [
      { DRAWBRIDGE_API_LISTEN: 'nowhere' },
      { DRAWBRIDGE_NOTIFY: '[{}]' },
      { DRAWBRIDGE_FLOWS_NO: '1' },
    ])
      expect(
        used({}, undefined, env)
          .faults.map(({ detail }) => detail)
          .join(),
      ).toMatch(/DRAWBRIDGE_/);
  });

  it('does not hide one in what enforces, which stops the start with all of them', () => {
    for (const value of [
      { api: { bogus: 1 }, dns: { grace: 'x' } },
      { api: { bogus: 1 }, notfy: [] },
      { api: { bogus: 1 }, kernel: { prefix: 'KUBE' } },
    ]) {
      const parsed = read(value);
      expect(parsed.ok ? [] : parsed.problems).toHaveLength(2);
    }
    expect(readForService({ file: { name: 'c', text: 'api: {listen: [' } }).ok).toBe(false);
    // Another variable is none, whatever its name or its problem contains.
    for (const name of ['DRAWBRIDGE_DNS_NO', 'DRAWBRIDGE_DNS_DRAWBRIDGE_API', 'DRAWBRIDGE_APIS'])
      expect(read({}, undefined, { [name]: '1' }).ok, name).toBe(false);
  });

  it('leaves commands without the check of the whole file at the same socket', async () => {
    for (const tokens of [[], [{ name: 'a b', token: 'x' }]])
      for (const listen of ['unix:/run/other.sock', '127.0.0.1:7070']) {
        const value = { api: { listen, tokens } };
        const { api, state } = used(value);
        const socket = api.listen.startsWith('unix:') ? api.listen.slice(5) : join(state, 'api.sock');
        expect(await socketIn(JSON.stringify(value))).toBe(socket);
      }
  });
});
