/** The quick way to the socket of the service, next to the reader of the whole configuration. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readConfig } from '../../../src/config/config.js';
import { loadConfig } from '../../../src/config/load.js';
import { ConfigSchema } from '../../../src/config/schema.js';
import {
  API_KEYS,
  localSocketOf,
  quickSocket,
  SECTIONS,
  socketIn,
} from '../../../src/config/service-socket.js';

const DEFAULT = '/run/drawbridge/api.sock';

/** What the whole reader finds; undefined where it refuses the text. */
function wholeSocket(text: string): string | undefined {
  const read = readConfig({ file: { name: 'config.yaml', text } });
  return read.ok ? localSocketOf(read.value) : undefined;
}

it('knows the keys of the configuration', () => {
  expect([...SECTIONS].sort()).toEqual(Object.keys(ConfigSchema.properties).sort());
  expect([...API_KEYS].sort()).toEqual(Object.keys(ConfigSchema.properties.api.properties).sort());
});

it.each([
  ['', DEFAULT],
  ['# only comments\n# api: { listen: "unix:/no" }\n', DEFAULT],
  ['default: enforce\ndns:\n  grace: 1h\n', DEFAULT],
  ['api: { listen: "unix:/a b/c.sock", tokens: [] }\n', '/a b/c.sock'],
  ['api:\n  listen: unix:/x/y.sock # here\nstate: /srv/d\n', '/x/y.sock'],
  ['state: /srv/d\napi: { listen: "127.0.0.1:7070" }\n', '/srv/d/api.sock'],
  ['api: { listen: "localhost:7070" }\n', '/var/lib/drawbridge/api.sock'],
  ['{"api": {"listen": "unix:/json.sock"}, "state": "/s"}', '/json.sock'],
  ['"\\x61pi": { listen: "unix:/escaped.sock" }\n', '/escaped.sock'],
  ['? api\n: listen: unix:/explicit.sock\n', '/explicit.sock'],
  ['? "ap\\\n  i"\n: listen: unix:/folded.sock\n', '/folded.sock'],
  ['state: &s /srv/anchor\nallowlists: *s\napi: { listen: 127.0.0.1:1 }\n', '/srv/anchor/api.sock'],
  ['%YAML 1.1\n---\ndns: { grace: 1h }\n', DEFAULT],
  ['!!map\napi: !!map { listen: !!str "unix:/tagged.sock" }\n', '/tagged.sock'],
  ['api:\nstate:\n', DEFAULT],
  ['api: { listen: null }\n', DEFAULT],
  ['---\napi:\n  listen: >-\n    unix:/block.sock\n...\n', '/block.sock'],
  ['\ufeffapi: { listen: "unix:/bom.sock" }\n', '/bom.sock'],
  ['  api:\n    listen: unix:/indented.sock\n', '/indented.sock'],
  ['node: state\n', DEFAULT],
  ['state: /srv/d # here\n\napi:\n  # a comment\n  listen: 127.0.0.1:7070\n', '/srv/d/api.sock'],
  ['api:\n  listen: unix:/long\n    er.sock\n', '/long er.sock'],
  ['state: /srv\n  d\napi: { listen: 127.0.0.1:1 }\n', '/srv d/api.sock'],
  ['eastWest:\n  api: policy\n  state: allow\n', DEFAULT],
  ['node: x\nlog:\n  level: warn\napi:\n  listen: unix:/last.sock  \n', '/last.sock'],
  ['api:\n    listen: unix:/wide.sock\nstate: /s\ndns:\n  grace: 1h\n', '/wide.sock'],
  ['api: { listen: "unix:/crlf.sock" }\r\nstate: /x\r\n', '/crlf.sock'],
])('%j: the socket is %s, as the whole reader finds', async (text, socket) => {
  expect([await socketIn(text), wholeSocket(text)]).toEqual([socket, socket]);
});

it.each([
  'defualt: enforce\n',
  'apy: { listen: "unix:/typo.sock" }\n',
  'api: { lisen: "unix:/typo.sock" }\n',
  'api: { listen: "unix:relative" }\n',
  'api: { listen: 7070 }\n',
  'api: [listen]\n',
  'api: { listen: "unix:/a.sock" }\napi: { listen: "unix:/b.sock" }\n',
  'state: relative\n',
  'state: /proc/1\n',
  'state: /srv/../sys/x\n',
  'api: {\n',
  '- api\n',
  'just text\n',
  '---\napi: {}\n---\napi: {}\n',
  'api: *nowhere\n',
  'api:\nlisten: unix:/outside.sock\n',
  'state:\n  - /a\n',
  'state: /a\nstate: /b\n',
  'api:\n  listen: unix:/a.sock\n  listen: unix:/b.sock\n',
  'api:\n  listen: unix:/a.sock\n  lisen: x\n',
])('%j: refused by the whole reader, and not decided here', async (text) => {
  expect([await socketIn(text), wholeSocket(text)]).toEqual([undefined, undefined]);
});

it.each(['api: { listen: "[::1]:7070" }\n', 'api: { listen: "192.0.2.1:7070" }\n', 'state: !!str /srv/t\n'])(
  '%j: if it is decided here, then as the whole reader does',
  async (text) => {
    expect([undefined, wholeSocket(text)]).toContain(await socketIn(text));
  },
);

/** Texts of lines that a configuration may have, well indented and not. */
const LINES = [
  ...['api:', 'api: {}', 'api: &a', 'state: /srv/s', 'state: |', 'state: "/srv/q"', 'dns:', 'dns: {', '}'],
  ...['  listen: unix:/a.sock', '  listen: "unix:/b.sock"', '  listen: 127.0.0.1:7070', '  tokens: []'],
  ...['  grace: 1h', '  /srv/block', '# api:', '', '---', '...', '%YAML 1.1', 'default: enforce', 'node: |'],
  ...['  api: x', '<<: *a', 'log: { level: warn }', 'node: "x', '"state": /srv/k', '? api', ': {}', 'x: 1'],
  ...['  listen: unix:/c.sock # c', 'state: /srv/t  ', '    more', 'log:', '  level: warn', 'node: x'],
  ...['\tlisten: unix:/t.sock', 'api: { listen: unix:/f.sock }', '"a\\x70i":', "'api':", 'eastWest: *a'],
];

it('never decides otherwise than the whole reader, whatever the lines', async () => {
  let decided = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom(...LINES), { maxLength: 7 }), async (lines) => {
      const text = lines.join('\n');
      const whole = wholeSocket(text);
      const quick = await socketIn(text);
      if (whole === undefined || quick === undefined) return;
      decided++;
      expect(quick).toBe(whole);
    }),
    { numRuns: 1000 },
  );
  expect(decided).toBeGreaterThan(10);
});

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drawbridge-socket-'));
  await writeFile(join(folder, 'one.yaml'), 'api: { listen: "unix:/one.sock" }\n');
  await writeFile(join(folder, 'two.yaml'), 'state: /two\n');
  await writeFile(join(folder, 'state'), '/secret\n');
});
afterAll(() => rm(folder, { recursive: true }));

it('reads the file that the whole reader reads, and leaves to it what the environment decides', async () => {
  const at = (name: string): string => join(folder, name);
  const sources: readonly [{ file: string | undefined; env: Record<string, string> }, boolean][] = [
    [{ file: at('one.yaml'), env: {} }, true],
    [{ file: at('one.yaml'), env: { DRAWBRIDGE_CONFIG: at('two.yaml') } }, true],
    [{ file: undefined, env: { DRAWBRIDGE_CONFIG: at('two.yaml') } }, true],
    [{ file: at('two.yaml'), env: { DRAWBRIDGE_LOG_LEVEL: 'warn' } }, true],
    [{ file: at('one.yaml'), env: { DRAWBRIDGE_API_LISTEN: 'unix:/env.sock' } }, false],
    [{ file: at('two.yaml'), env: { DRAWBRIDGE_STATE: '/env' } }, false],
    [{ file: at('two.yaml'), env: { DRAWBRIDGE_STATE_FILE: at('state') } }, false],
    [{ file: at('none.yaml'), env: {} }, false],
    [{ file: folder, env: {} }, false],
  ];
  for (const [source, isDecided] of sources) {
    const loaded = await loadConfig(source);
    const whole = loaded.ok ? localSocketOf(loaded.value.config) : undefined;
    expect(await quickSocket(source)).toBe(isDecided ? whole : undefined);
    if (isDecided) expect(whole).toBeDefined();
  }
});
