/** Every command: its help, its options, its place in docs/cli.md, and the shape of its JSON. */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Value } from '@sinclair/typebox/value';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allCommands, cliPage, PAGE } from '../../../scripts/cli-reference.js';
import { SHAPES, WITHOUT_RESULT } from '../../../scripts/cli-shapes.js';
import { Registry } from '../../../src/cli/command.js';
import { Bench } from './bench.js';

const all = await allCommands();
const paths = all.map(({ path }) => path);
let bench: Bench;
beforeAll(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterAll(() => bench.end());

it('docs/cli.md has every command as it is: npm run cli:docs', async () => {
  expect(readFileSync(PAGE, 'utf8')).toBe(await cliPage());
});

it('each shape is that of a command', () => {
  expect([...Object.keys(SHAPES), ...WITHOUT_RESULT].sort()).toEqual([...paths].sort());
});

describe.each(paths)('%s', (path) => {
  const words = path.split(' ');
  const command = all.find((c) => c.path === path)?.command;

  it('has --json, --config, help and examples of itself', async () => {
    expect(command?.options.map((o) => o.long)).toEqual(expect.arrayContaining(['--json', '--config']));
    const { code, out, err } = await bench.run(...words, '--help');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toMatch(/--json.*--config.*--help.*Examples:\n {2}\$ drawbridge/s);
    const examples = (command && Registry.texts.get(command)?.examples) ?? [];
    expect(examples.filter((e) => e !== path && !e.startsWith(`${path} `))).toEqual([]);
  });

  it('refuses an option that it does not have, with exit code 2', async () => {
    const arguments_ = (command?.registeredArguments ?? []).filter((a) => a.required).map(() => 'x');
    const ran = await bench.run(...words, ...arguments_, '--nonsense', '--json');
    expect(ran.code).toBe(2);
    expect(JSON.parse(ran.err).errors).toEqual([expect.objectContaining({ remedy: expect.any(String) })]);
  });
});

describe('the JSON of', () => {
  it.each([
    ['status'],
    ['ps'],
    ['inspect', 'web'],
    ['explain', 'web', 'a.org'],
    ['flows', '--since', '2h30m'],
    ['allow', 'web', 'a.org', '--for', '10m'],
    ['revoke', 'web', 'a.org'],
    ['mode', 'web', 'enforce', '--dry-run'],
    ['mode', 'web', 'observe'],
    ['pause', 'web', '--for', '10m'],
    ['pause', '--all', '--end'],
    ['lockdown', '--off'],
    ['lists'],
    ['lists', 'create', 'ci', 'a.org'],
    ['lists', 'add', 'ci', 'b.org'],
    ['lists', 'remove', 'ci', 'b.org'],
    ['lists', 'show', 'ci'],
    ['lists', 'delete', 'ci'],
    ['export'],
    ['feeds'],
    ['feeds', 'sync', 'bad'],
    ['feeds', 'catalogue'],
    ['threats'],
    ['threats', 'check', '192.0.2.1'],
    ['scan'],
    ['audit'],
    ['plan'],
    ['nodes'],
    ['doctor'],
    ['guard'],
    ['tokens'],
    ['tokens', 'list'],
    ['tokens', 'create', 'ci', '--role', 'read'],
    ['tokens', 'revoke', 'ci'],
    ['store', 'accept', '--yes'],
    ['completion', 'fish'],
    ['version'],
  ])('%s %s is as documented', async (...argv) => {
    const { code, out, err } = await bench.run(...argv, '--json');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    const path = paths.filter((p) => `${argv.join(' ')} `.startsWith(`${p} `)).at(-1) ?? '';
    const shape = SHAPES[path];
    expect(shape && [...Value.Errors(shape, JSON.parse(out))].map((e) => `${e.path}: ${e.message}`)).toEqual(
      [],
    );
  });

  it('check is as documented, also with problems', async () => {
    const file = join(bench.dir, 'a.yaml');
    await writeFile(file, 'allow: [a.org, "10.1.2.3/16"]\n');
    const { out } = await bench.run('check', file, '--json');
    expect(SHAPES.check && [...Value.Errors(SHAPES.check, JSON.parse(out))]).toEqual([]);
  });
});
