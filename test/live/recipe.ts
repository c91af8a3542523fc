/**
 * Runs docs/recipes/NAME.md as a reader does: writes the files that it shows, and types its commands in a shell of the lab's host.
 * A fenced block is a file if the last line of text before it ends with the file's name in backticks and a colon. A block of `sh` is typed.
 * Blocks of other languages (`console`, `markdown`) show what a reader sees. No registry is reachable: a test makes an image under each name
 * that a recipe uses, with substitutes for the programs that its commands start.
 */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import type { Lab } from '../lab/lab.js';
import { type Result, run } from '../lab/process.js';

const ROOT = join(import.meta.dirname, '..', '..');
const RECIPES = join(ROOT, 'docs', 'recipes');
/** The folder of list files of a host: the lab's service has its own. */
const ALLOWLISTS = '/etc/drawbridge/allowlists';
export const CONFIG = '/etc/drawbridge/config.yaml';

export interface Block {
  /** The nearest heading above it, without the number signs. */
  readonly heading: string;
  readonly language: string;
  readonly text: string;
  /** The name of the file that has this content. */
  readonly file?: string;
}

/** The fenced blocks of a Markdown text, in order. */
function blocksOf(markdown: string): Block[] {
  const found: Block[] = [];
  let heading = '';
  let before = '';
  let open: { language: string; lines: string[] } | undefined;
  for (const line of markdown.split('\n')) {
    if (open !== undefined && line !== '```') open.lines.push(line);
    else if (open !== undefined) {
      const file = /`([^`]+)`:$/.exec(before)?.[1];
      const text = `${open.lines.join('\n')}\n`;
      found.push({ heading, language: open.language, text, ...(file === undefined ? {} : { file }) });
      open = undefined;
      before = '';
    } else if (line.startsWith('```')) open = { language: line.slice(3), lines: [] };
    else {
      heading = /^#+ (.*)$/.exec(line)?.[1] ?? heading;
      if (line.trim() !== '') before = line.trim();
    }
  }
  if (open !== undefined) throw new Error('the last fenced block is not closed');
  return found;
}

export class Recipe {
  readonly name: string;
  readonly blocks: readonly Block[];

  constructor(name: string) {
    this.name = name;
    this.blocks = blocksOf(readFileSync(join(RECIPES, `${name}.md`), 'utf8'));
  }
  /** The content of a file that the recipe shows. */
  file(name: string): string {
    const block = this.blocks.find((b) => b.file === name);
    if (block === undefined) throw new Error(`${this.name}.md shows no file ${name}`);
    return block.text;
  }
  /** The blocks of a language that are no files, below this heading. */
  below(heading: string, language = 'sh'): string[] {
    const fitting = this.blocks.filter((b) => b.file === undefined && b.language === language);
    const texts = fitting.filter((b) => b.heading === heading).map((b) => b.text);
    if (texts.length === 0) throw new Error(`${this.name}.md has no block of ${language} below "${heading}"`);
    return texts;
  }
}

/** In single quotes, for a shell. */
const quoted = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;
const shim = (path: string, command: string): void => {
  writeFileSync(path, `#!/bin/sh\n${command}\n`);
  chmodSync(path, 0o755);
};

/** A recipe on a host of the lab. */
export class Kitchen {
  readonly recipe: Recipe;
  /** Where the reader's files are, and where the shell starts. */
  readonly folder: string;
  readonly #lab: Lab;
  readonly #drawbridge: Drawbridge;
  readonly #bin: string;
  readonly #typed = new Set<string>();

  constructor(lab: Lab, drawbridge: Drawbridge, name: string) {
    this.recipe = new Recipe(name);
    this.#lab = lab;
    this.#drawbridge = drawbridge;
    this.folder = join(lab.dir, 'recipes', name);
    this.#bin = join(lab.dir, 'recipes', 'bin');
    for (const folder of [this.folder, this.#bin]) mkdirSync(folder, { recursive: true });
    shim(join(this.#bin, 'drawbridge'), `exec ${program().map(quoted).join(' ')} "$@"`);
    shim(join(this.#bin, 'sudo'), 'exec "$@"'); // the test runs as root
  }

  /** Where a file of the recipe is in the lab. The configuration is read at the start of the service: see `config`. */
  path(file: string): string {
    if (dirname(file) === ALLOWLISTS) return join(this.#drawbridge.allowlists, basename(file));
    if (file.startsWith('/')) throw new Error(`${file} is not written in a lab: use recipe.file()`);
    return join(this.folder, file);
  }
  /** Writes the files that the recipe shows, or those that are named; not the configuration of the service. */
  write(...files: readonly string[]): void {
    const all = this.recipe.blocks.flatMap((b) => b.file ?? []).filter((file) => file !== CONFIG);
    for (const file of files.length > 0 ? files : all) {
      const path = this.path(file);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, this.recipe.file(file));
      if (this.recipe.file(file).startsWith('#!')) chmodSync(path, 0o755);
    }
  }

  /** Types all `sh` blocks below this heading, in order; throws when a command of them fails, unless `check: false`. */
  async type(
    heading: string,
    o: { readonly check?: boolean; readonly timeoutMs?: number } = {},
  ): Promise<Result> {
    let printed: Result = { code: 0, stdout: '', stderr: '' };
    for (const text of this.recipe.below(heading)) {
      this.#typed.add(text);
      const { code, stdout, stderr } = await this.sh(text, o);
      printed = { code, stdout: printed.stdout + stdout, stderr: printed.stderr + stderr };
    }
    return printed;
  }
  /** `sh` blocks that no test has typed yet. */
  untyped(): string[] {
    const blocks = this.recipe.blocks.filter((b) => b.file === undefined && b.language === 'sh');
    return blocks.map((b) => b.text).filter((text) => !this.#typed.has(text));
  }

  /** Runs a script in the reader's shell: in the folder, on the host of the lab, with its `docker` and `drawbridge`. */
  sh(script: string, o: { readonly check?: boolean; readonly timeoutMs?: number } = {}): Promise<Result> {
    const { env } = this.#lab.view;
    const terminal = {
      ...env,
      PATH: `${this.#bin}:${env.PATH}`,
      DOCKER_HOST: `unix://${this.#lab.socketPath}`,
      DOCKER_CONFIG: join(this.#lab.dir, 'recipes', 'client'),
      DRAWBRIDGE_CONFIG: this.#drawbridge.configFile,
    };
    const argv = this.#lab.view.inside(['sh', '-eu', '-c', script], this.folder);
    return run(argv, { env: terminal, check: o.check ?? true, timeoutMs: o.timeoutMs ?? 60_000 });
  }
}
