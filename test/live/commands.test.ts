/** Every command against a service that runs: its exit code, and JSON of the documented shape. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Value } from '@sinclair/typebox/value';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { allCommands } from '../../scripts/cli-reference.js';
import { SHAPES } from '../../scripts/cli-shapes.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

interface Case {
  /** The words of the command, as in the help. */
  readonly command: string;
  /** `@` is the folder of the test. */
  readonly args?: readonly string[];
  /** Default 0. */
  readonly code?: number;
}

/** In this order: a case may use what one before it has made. A command without a case fails. */
const CASES: readonly Case[] = [
  { command: 'version' },
  { command: 'doctor' },
  { command: 'guard' },
  { command: 'status' },
  { command: 'ps' },
  { command: 'ps', args: ['nothere'], code: 1 },
  { command: 'ps', args: ['--project', 'nothere'], code: 1 },
  { command: 'inspect', args: ['web'] },
  { command: 'explain', args: ['web', 'a.example'] },
  { command: 'explain', args: ['web', 'b.example', '--exit-code'], code: 1 },
  { command: 'flows', args: ['web', '--since', '1h'] },
  { command: 'flows', args: ['web', '--format', 'markdown', '--exit-code'] },
  { command: 'flows', args: ['--project', 'nothere'], code: 1 },
  { command: 'suggest', args: ['web'] },
  { command: 'notify' },
  { command: 'notify test' },
  { command: 'ask' },
  { command: 'ask allow', args: ['--oldest', '--yes'], code: 1 },
  { command: 'ask allow', args: ['3f9c21ab'], code: 1 },
  { command: 'ask deny', args: ['3f9c21ab'], code: 1 },
  { command: 'allow', args: ['web', 'b.example', '--for', '10m'] },
  { command: 'explain', args: ['web', 'b.example', '--exit-code'] },
  { command: 'revoke', args: ['web', 'b.example'] },
  { command: 'revoke', args: ['web', 'a.example'], code: 1 },
  { command: 'mode', args: ['web', 'observe'] },
  { command: 'mode', args: ['web', 'enforce'], code: 2 },
  { command: 'mode', args: ['web', 'enforce', '--dry-run'] },
  { command: 'mode', args: ['web', 'enforce', '--yes'] },
  { command: 'mode', args: ['web', 'confirm'], code: 1 },
  { command: 'mode', args: ['web', 'observe'] },
  { command: 'mode', args: ['web', 'enforce', '--trial', '10m', '--yes'] },
  { command: 'mode', args: ['web', 'confirm'] },
  { command: 'pause', args: ['web', '--for', '10m'] },
  { command: 'pause', args: ['web', '--end'] },
  { command: 'lockdown' },
  { command: 'lockdown', args: ['--off'] },
  { command: 'lists create', args: ['ci', 'a.example'] },
  { command: 'lists' },
  { command: 'lists add', args: ['ci', 'b.example'] },
  { command: 'lists remove', args: ['ci', 'b.example'] },
  { command: 'lists show', args: ['ci'] },
  { command: 'lists show', args: ['cj'], code: 1 },
  { command: 'lists edit', args: ['ci'] },
  { command: 'mode', args: ['web', 'observe', '--against', 'ci', '--dry-run'] },
  { command: 'mode', args: ['web', 'observe', '--against', 'ci'] },
  { command: 'mode', args: ['web', 'enforce', '--yes'] },
  { command: 'lists delete', args: ['ci'] },
  { command: 'check', args: ['@/lists'] },
  { command: 'sync', args: ['@/lists'] },
  { command: 'sync', args: ['@/lists', '--exit-code'] },
  { command: 'export' },
  { command: 'import', args: ['@/import.yaml'] },
  { command: 'import', args: ['@/import.yaml', '--replace', '--dry-run', '--exit-code'], code: 1 },
  { command: 'feeds' },
  { command: 'feeds sync', args: ['bad'] },
  { command: 'feeds catalogue' },
  { command: 'threats' },
  { command: 'threats check', args: ['203.0.113.7', '--exit-code'], code: 1 },
  { command: 'scan', args: ['web'] },
  { command: 'audit', args: ['--since', '1h'] },
  { command: 'audit verify' },
  { command: 'plan' },
  { command: 'nodes' },
  { command: 'nodes forget', args: ['nothere'], code: 1 },
  { command: 'tokens create', args: ['ci', '--role', 'read', '--expires', '1d'] },
  { command: 'tokens' },
  { command: 'tokens list' },
  { command: 'tokens revoke', args: ['ci'] },
  { command: 'store accept', args: ['--yes'], code: 1 },
  { command: 'bugreport', args: ['--out', '@/report'] },
  { command: 'completion', args: ['bash'] },
  { command: 'run', args: ['--nonsense', 'x'], code: 2 },
  { command: 'store check' },
  { command: 'teardown' },
  { command: 'status', code: 1 },
  { command: 'store' },
  { command: 'store restore', args: ['--yes'] },
  { command: 'store start-empty', args: ['--yes'] },
];

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  mkdirSync(join(lab.dir, 'lists'));
  writeFileSync(join(lab.dir, 'lists', 'synced.yaml'), 'allow: [c.example]\n');
  writeFileSync(join(lab.dir, 'import.yaml'), 'lists: { imported: { allow: [d.example] } }\n');
  writeFileSync(join(lab.dir, 'feed.txt'), '203.0.113.7\n');
  const url = `file://${join(lab.dir, 'feed.txt')}`;
  drawbridge = lab.drawbridge({
    env: { EDITOR: 'true' },
    config: { threats: { feeds: [{ name: 'bad', url, format: 'plain' }] } },
  });
  await drawbridge.ready();
  await lab.start({ name: 'web', labels: { 'drawbridge.allow': 'a.example' } });
  await waitFor('the feed to be in force', async () =>
    (await drawbridge.cli(['threats'])).stdout.startsWith('1 '),
  );
});
afterAll(() => lab?.down());

it('there is a case for every command', async () => {
  const paths = (await allCommands()).map(({ path }) => path);
  expect([...new Set(CASES.map(({ command }) => command))].sort()).toEqual([...paths].sort());
});

it.each(CASES)('$command $args', async ({ command, args = [], code = 0 }) => {
  const argv = [...command.split(' '), ...args.map((arg) => arg.replace('@', lab.dir)), '--json'];
  const ran = await drawbridge.cli(argv);
  expect({ code: ran.code, stderr: ran.code === 0 ? '' : ran.stderr }).toMatchObject({ code });
  if (ran.stdout === '') expect(JSON.parse(ran.stderr).errors).not.toEqual([]);
  else {
    const shape = SHAPES[command];
    const errors = shape && [...Value.Errors(shape, JSON.parse(ran.stdout))];
    expect(errors?.map((e) => `${e.path}: ${e.message}`)).toEqual([]);
  }
});
