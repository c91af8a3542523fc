/** The layout of src: the order of the modules, circles, and who may import a package; and which lines are comments. */
import { expect, it } from 'vitest';
import { layoutProblems } from '../../../scripts/layout.js';
import { commentLines, type SourceFile } from '../../../scripts/source-files.js';

const file = (
  path: string,
  imports: readonly string[] = [],
  packages: readonly string[] = [],
): SourceFile => ({
  path,
  module: path.split('/')[1] ?? '',
  text: '',
  lines: 1,
  imports: new Set(imports),
  starts: new Set(),
  loads: new Set(imports),
  packages: new Set(packages),
  comments: [],
});
const found = (...files: readonly SourceFile[]): readonly string[] =>
  layoutProblems(files).filter((problem) => /^src|^a circle/.test(problem));

it('a module imports itself and those below, and nothing else of src', () => {
  expect(
    found(file('src/policy/a.ts', ['src/policy/b.ts', 'src/lib/c.ts']), file('src/app.ts', ['src/cli/d.ts'])),
  ).toEqual([]);
  expect(found(file('src/policy/a.ts', ['src/config/b.ts']))).toEqual([
    'src/policy/a.ts: imports src/config/b.ts, which is above it',
  ]);
  expect(found(file('src/cli/a.ts', ['src/app.ts']))).toHaveLength(1);
  expect(found(file('src/unknown/a.ts'))).toEqual([expect.stringContaining('not in the order')]);
});

it('a circle of imports is found, however long', () => {
  const chain = ['a', 'b', 'c'].map((name, i, all) =>
    file(`src/lib/${name}.ts`, [`src/lib/${all[i + 1] ?? 'd'}.ts`]),
  );
  expect(found(...chain, file('src/lib/d.ts'))).toEqual([]);
  expect(found(...chain, file('src/lib/d.ts', ['src/lib/b.ts']))).toEqual([
    'a circle of imports: src/lib/b.ts → src/lib/c.ts → src/lib/d.ts → src/lib/b.ts',
  ]);
});

it('the enforcement loads nothing that reports, however far it is', () => {
  const core = (...imports: readonly string[]): SourceFile => file('src/core-service.ts', imports);
  const enforce = file('src/enforce/a.ts', ['src/coverage/b.ts']);
  expect(found(core('src/enforce/c.ts'), enforce, file('src/coverage/b.ts'))).toHaveLength(1);
  expect(found(core('src/enforce/a.ts'), enforce, file('src/coverage/b.ts'))).toContain(
    'src/core-service.ts: loads src/coverage/b.ts, which is not part of the enforcement',
  );
  const types = { ...enforce, loads: new Set<string>() };
  expect(found(core('src/enforce/a.ts'), types, file('src/coverage/b.ts'))).toHaveLength(1);
});

it('a file exports two classes at most, besides those of errors', () => {
  const text = ['A<T>', 'B extends A', 'CError extends Error']
    .map((c) => `export class ${c} {\n}\n`)
    .join('');
  expect(found({ ...file('src/lib/a.ts'), text })).toEqual([]);
  expect(found({ ...file('src/lib/a.ts'), text: `${text}export abstract class D {}\nclass E {}\n` })).toEqual(
    ['src/lib/a.ts: exports A, B, D: at most 2 classes'],
  );
});

it('a package belongs to the files that scripts/layout.json names', () => {
  expect(
    found(file('src/docker/client.ts', [], ['dockerode']), file('src/store/redis-link.ts', [], ['ioredis'])),
  ).toEqual([]);
  expect(found(file('src/lib/a.ts', [], ['execa']), file('src/store/a.ts', [], ['ioredis']))).toHaveLength(2);
});

/** A copy of each idiom that `once` of scripts/layout.json refuses. */
const COPIES = [
  ['problem', 'const text = error instanceof Error ? error.message : String(error);'],
  ['problem', "if ((e as NodeJS.ErrnoException).code === 'ENOENT') return;"],
  ['problem', "if (e instanceof Error && 'code' in e && e.code === 'ENOENT') return;"],
  ['foreign-text', String.raw`const text = name.replace(/\p{Cc}/gu, ' ');`],
  ['foreign-text', String.raw`const text = name.replace(/[\u0000-\u001f\u202e]/g, ' ');`],
  ['units', ['const host = isIP(address) === 6 ? `[$', '{address}]` : address;'].join('')],
  ['ip', "const family = src.includes(':') ? 6 : 4;"],
] as const;

it.each(COPIES)('a function of lib/%s.ts exists for %j, which is refused elsewhere', (owner, text) => {
  const [problem, ...others] = found({ ...file('src/cli/a.ts'), text: `\n\n${text}\n` });
  expect(problem).toMatch(/^src\/cli\/a\.ts:3: .*: use \w+ of src\/lib\//);
  expect(others).toEqual([]);
  expect(found({ ...file(`src/lib/${owner}.ts`), text })).toEqual([]);
});

it.each([
  "type: 'hash:ip,port'",
  "{ table: 'raw' }",
  "chain: 'DOCKER-USER'",
  '/** `mangle` sets the mark. */',
  "import './render/iptables.js';",
])('the desired state has no word of iptables or ipset: %s', (text) => {
  const at = (path: string): readonly string[] => found({ ...file(path), text: `\n${text}` });
  expect(at('src/ruleset/desired-state.ts')).toEqual([
    expect.stringMatching(/^src\/ruleset\/desired-state\.ts:2: .+: a word of one backend/),
  ]);
  expect(at('src/ruleset/compile.ts')).toHaveLength(1);
  expect([...at('src/ruleset/render/iptables.ts'), ...at('src/kernel/iptables-text.ts')]).toEqual([]);
});

it('users of sets name the interface, and no ipset', () => {
  const ipsets = ['src/kernel/netlink/ipset-bulk.ts'];
  expect(found(file('src/kernel/kernel.ts', ipsets))).toEqual([]);
  expect(found(file('src/threats/threat-sets.ts', ['src/kernel/set-store.ts']))).toEqual([]);
  expect(found(file('src/threats/threat-sets.ts', ipsets))).toHaveLength(1);
});

it('only what opens an engine imports the module of Docker, and only that module its class', () => {
  const opens = ['src/docker/open-engine.ts'];
  expect(
    found(
      file('src/app.ts', opens),
      file('src/ops/guard.ts', opens),
      file('src/docker/open-engine.ts', ['src/docker/watch.ts']),
      file('src/enforce/pass.ts', ['src/policy/engine.ts']),
    ),
  ).toEqual([]);
  expect(found(file('src/enforce/pass.ts', opens))).toEqual([
    expect.stringContaining('may import src/docker/'),
  ]);
  expect(found(file('src/app.ts', ['src/docker/watch.ts']))).toEqual([
    'src/app.ts: only src/docker/ may import src/docker/watch.ts',
  ]);
});

it('comments are what the compiler takes for comments', () => {
  const text = [
    "const a = 'http://x'; // one",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text.
    'const b = `//no ${f({ g: `/*no*/` /* two */ })} //no`;',
    'const c = [/\\/\\/[/]no/, x.replace(/"/g, y)]; /** three',
    ' * four',
    ' */',
    'const d = e / 2; const f = "/*no*/"; // biome-ignore five',
    'return /[`]/.test(g) ? h / i : j; // six',
  ].join('\n');
  expect(commentLines(text)).toEqual([
    { line: 1, text: '// one' },
    { line: 2, text: '/* two */' },
    { line: 3, text: '/** three' },
    { line: 4, text: '* four' },
    { line: 7, text: '// six' },
  ]);
});
