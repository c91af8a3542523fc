/** Receivers of events in the configuration: defaults, and a clear error for each mistake. */
import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config/config.js';
import { ALERTS } from '../../../src/config/endpoints.js';

const read = (text: string) => readConfig({ file: { name: 'c.yaml', text } });
const problems = (text: string): readonly string[] => {
  const parsed = read(text);
  return parsed.ok ? [] : parsed.problems.map(({ detail, line }) => `${line}: ${detail}`);
};

it('every kind, with its defaults', () => {
  const parsed = read(`
notify:
  - { kind: json, url: "https://h.example/x", secret_file: /etc/key }
  - { name: chat, kind: slack, secret_file: /etc/slack.url }
  - { kind: ntfy, url: "https://ntfy.sh/topic", events: [flow:threat], containers: ["web*"], digest: 0, timeout: 3s }
  - { kind: gotify, url: "https://g.example", secret_file: /etc/token }
  - { kind: exec, command: [/bin/true, -x] }
flows: { file: /var/log/x.jsonl, syslog: "tcp://[2001:db8::1]:601", format: ocsf }
`);
  expect(parsed.ok && parsed.value.notify).toMatchObject([
    { name: 'json', events: ALERTS, containers: [], digest: 10, timeoutMs: 10_000, secretFile: '/etc/key' },
    { name: 'chat', url: '' },
    { name: 'ntfy', events: ['flow:threat'], containers: ['web*'], digest: 0, timeoutMs: 3_000 },
    { name: 'gotify' },
    { name: 'exec', url: '', command: ['/bin/true', '-x'] },
  ]);
  expect(parsed.ok && parsed.value.flows).toMatchObject({ file: '/var/log/x.jsonl', format: 'ocsf' });
  const none = readConfig({});
  expect(none.ok && [none.value.notify, none.value.flows.file]).toEqual([[], '']);
});

describe('mistakes', () => {
  it.each([
    ['{ kind: json }', 'receiver json: kind json needs a url'],
    ['{ kind: json, url: "https://u:p@h/" }', 'receiver json: the url contains a user or a password'],
    ['{ kind: json, url: "https://h:99999/" }', 'receiver json: the url cannot be read'],
    ['{ kind: slack }', 'receiver slack: kind slack needs a url'],
    ['{ kind: ntfy, url: "https://ntfy.sh/" }', 'receiver ntfy: the url names no topic of ntfy'],
    ['{ kind: gotify, url: "https://g" }', 'receiver gotify: kind gotify needs the token of an application'],
    ['{ kind: exec }', 'receiver exec: kind exec needs the program with its whole path'],
    ['{ kind: exec, command: [true.sh] }', 'receiver exec: kind exec needs the program with its whole path'],
    ['{ kind: exec, command: [/x], url: "https://h" }', 'receiver exec: kind exec has no url'],
    ['{ kind: json, url: "https://h", command: [/x] }', 'receiver json: kind json runs no command'],
    ['{ kind: json, url: "ftp://h" }', 'notify[0].url: "ftp://h" is wrong'],
    ['{ kind: pager, url: "https://h" }', 'notify[0].kind: "pager" is wrong'],
    ['{ kind: json, url: "https://h", events: [flow:lost] }', 'notify[0].events[0]: "flow:lost" is wrong'],
    ['{ kind: json, url: "https://h", secret: x }', 'unknown key notify[0].secret'],
  ])('%s', (receiver, detail) => {
    expect(problems(`notify:\n  - ${receiver}\n`)).toEqual([`2: ${detail}`]);
  });

  it('two receivers of one name', () => {
    const one = '  - { kind: json, url: "https://h" }\n';
    expect(problems(`notify:\n${one}${one}`)).toEqual(['3: two receivers have the name "json"']);
  });
});
