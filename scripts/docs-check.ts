/** Compares pages of the documentation with the product, both ways. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Facts, operationOf, type Page } from './docs-facts.js';
import { lengthProblems } from './markdown.js';

const ROOT = join(import.meta.dirname, '..');

/** A sentence that says what does not exist or was not tried, and why it stays. */
export interface Limit {
  readonly page: string;
  /** A part of its line. */
  readonly text: string;
  readonly reason: string;
}

interface Line {
  readonly page: string;
  readonly number: number;
  readonly text: string;
  /** Spans of code in it, or the whole line within a block of code. */
  readonly code: readonly string[];
}

function linesOf({ path, text }: Page): readonly Line[] {
  let fence = !path.endsWith('.md');
  return text.split('\n').map((line, at) => {
    const isFence = /^\s*```/.test(line);
    if (isFence) fence = !fence;
    const spans = [...line.matchAll(/`([^`]+)`/g)].map(([, span]) => (span ?? '').replaceAll('\\|', '|'));
    const code = isFence ? [] : fence ? [line] : spans;
    return { page: path, number: at + 1, text: line, code };
  });
}

/** After these words `drawbridge` is a unit, a container or a user, not the command. */
const NO_COMMAND =
  /(systemctl [a-z-]+|journalctl( -\w+)*|security|edit|-[ust]|user|exec( -\w+)*|--name|build|up( -d)?|logs) $/;
/** Ends a command in a shell, and the words of a synopsis that are not the command's. */
const END = /[|;&)>"'#,:…]|\s-- |$/;

/** Commands that a piece of code has: the words behind `drawbridge`. */
function commandsIn(code: string): readonly (readonly string[])[] {
  return [...code.matchAll(/(?<![\w./-])(?=drawbridge ((?:\[?-|[a-z]).*))/g)]
    .filter(({ index }) => !NO_COMMAND.test(code.slice(0, index)))
    .map(([, rest = '']) => (rest.split(END)[0] ?? '').replaceAll(/[[\]]/g, ' ').trim().split(/\s+/));
}

function commandProblem(words: readonly string[], { commands }: Facts): string | undefined {
  const isOption = (word: string): boolean => /^--?[a-z]/.test(word);
  const names = words.slice(0, Math.max(0, words.findIndex(isOption)) || words.length);
  const [first = ''] = names;
  if (/^$|^help$|^--/.test(first)) return undefined;
  const isGroup = [...commands.keys()].some((path) => path === first || path.startsWith(`${first} `));
  if (!isGroup) return `there is no command drawbridge ${first}`;
  const two = names.slice(0, 2).join(' ');
  const path = commands.has(two) ? two : first;
  const known = commands.get(path) ?? new Set();
  if (path === 'run') return undefined; // each key of the configuration is an option
  const wrong = words
    .filter(isOption)
    .map((word) => word.replace(/=.*|\.$/, ''))
    .find((o) => !known.has(o));
  return wrong === undefined ? undefined : `drawbridge ${path} has no option ${wrong}`;
}

/** Ends of file names that begin with `drawbridge.`, as labels do. */
const FILES =
  /^(service|timer|sock|yaml|yml|sh|deb|tgz|cron|md|ts|js|log|json|svg|prom|new|previous|torn|unusable)$/;
const METHODS = /\b(GET|PUT|POST|DELETE|PATCH) (\/(?:\{[^}]*\}|[^\s`?)"',;|{])*)/g;
const PLACES = /^(scripts|src|docs|test|bench|schemas|allowlists)\/[\w./-]*\w$/;
/** `dns.grace`, not `a.org`, `package.json` or `flows.db`. */
const KEY = /^[a-z][A-Za-z0-9]*(\.[a-zA-Z][A-Za-z0-9]*)+(?<!\.(com|org|net|io|example))$/;
/** Networks of the Compose project, and nft tables: the source joins their names from parts. */
const OTHERS = new Set(['drawbridge_redis', 'drawbridge_default', 'drawbridge_backstop', 'drawbridge_host']);

/** Names in one line that the product does not have. */
function unknownIn(line: Line, facts: Facts): readonly string[] {
  const sections = new Set([...facts.keys].map((key) => key.split('.')[0] ?? ''));
  const found: string[] = [];
  for (const code of line.code) {
    for (const words of commandsIn(code)) found.push(commandProblem(words, facts) ?? '');
    for (const [, name = ''] of code.matchAll(/(?<![\w./-])drawbridge\.([a-z]+)\b(?![./-])/g))
      if (
        !facts.labels.has(name) &&
        !FILES.test(name) &&
        !facts.events.has(name) &&
        !facts.isInSource(`drawbridge.${name}`)
      )
        found.push(`there is no label drawbridge.${name}`);
    for (const [, method = '', path = ''] of code.matchAll(METHODS))
      if (
        /^\/(v1|openapi|docs|metrics|healthz|readyz)/.test(path) &&
        !facts.operations.has(operationOf(method, path))
      )
        found.push(`there is no operation ${method} ${path}`);
    if (PLACES.test(code) && !existsSync(join(ROOT, code))) found.push(`there is no file ${code}`);
    if (KEY.test(code) && sections.has(code.split('.')[0] ?? '') && !isKey(code, facts))
      found.push(`the configuration has no key ${code}`);
  }
  for (const [name] of line.text.matchAll(/(?<![\w./-])drawbridge_[a-z0-9_]+(?!\w|\.)/g)) {
    const family = name.replace(/_(bucket|sum|count)$/, '');
    if (
      !facts.metrics.has(name) &&
      !facts.metrics.has(family) &&
      !OTHERS.has(name) &&
      !facts.isInSource(`'${name}'`)
    )
      found.push(`there is no metric ${name}`);
  }
  return found.filter((problem) => problem !== '');
}

/** A key, with `*` for a name that a person chooses; or a field, an action or a file, which the source names so. */
function isKey(code: string, { keys, isInSource }: Facts): boolean {
  if (keys.has(code) || FILES.test(code.split('.').at(-1) ?? '') || isInSource(code)) return true;
  const parts = code.split('.');
  return parts.some((_, at) => keys.has(parts.map((part, n) => (n === at ? '*' : part)).join('.')));
}

/** Links to pages and headings that are not there. */
function brokenLinks(page: Page, all: ReadonlyMap<string, Page>): readonly string[] {
  return [...page.text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link = '']) => {
    if (/^[a-z]+:/.test(link)) return [];
    const [file = '', anchor] = link.split('#');
    const path = file === '' ? page.path : join(dirname(page.path), file);
    if (!existsSync(join(ROOT, path))) return [`${page.path}: the link ${link} leads to no file`];
    const target = all.get(path);
    if (anchor === undefined || target === undefined) return [];
    return anchorsOf(target).has(anchor) ? [] : [`${page.path}: the link ${link} leads to no heading`];
  });
}

/** As GitHub makes them from headings. */
function anchorsOf({ text }: Page): ReadonlySet<string> {
  const seen = new Map<string, number>();
  const found = new Set<string>();
  for (const [, title = ''] of text.replaceAll(/^```.*?^```/gms, '').matchAll(/^#+ (.*)$/gm)) {
    const plain = title.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const anchor = plain
      .trim()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(/\s/g, '-');
    const times = seen.get(anchor) ?? 0;
    seen.set(anchor, times + 1);
    found.add(times === 0 ? anchor : `${anchor}-${times}`);
  }
  for (const [, id = ''] of text.matchAll(/<a (?:id|name)="([^"]+)"/g)) found.add(id);
  return found;
}

/** What says that a feature is missing or was not tried. */
const MISSING =
  /\b(not( (supported|built|implemented|signed|tested|measured|possible|there|packaged))? yet|do(es)? not exist|not (tested|tried|measured)|untested|planned|no test of)\b/gi;
const AROUND = 160;

interface Claim {
  readonly page: string;
  readonly line: number;
  readonly words: string;
  /** The text around it, with single blanks. */
  readonly around: string;
}

/** Over ends of lines: a sentence is wrapped. */
function claimsOf({ path, text }: Page): readonly Claim[] {
  if (!path.endsWith('.md')) return [];
  const flat = text.replaceAll(/\s/g, ' ');
  return [...flat.matchAll(MISSING)].map(({ 0: words, index }) => ({
    page: path,
    line: text.slice(0, index).split('\n').length,
    words,
    around: flat.slice(Math.max(0, index - AROUND), index + AROUND).replaceAll(/ +/g, ' '),
  }));
}

function limitProblems(all: readonly Page[], limits: readonly Limit[]): readonly string[] {
  const claims = all.flatMap(claimsOf);
  const isOf = (claim: Claim, limit: Limit): boolean =>
    limit.page === claim.page && claim.around.includes(limit.text);
  return [
    ...claims
      .filter((claim) => !limits.some((limit) => isOf(claim, limit)))
      .map(
        ({ page, line, words }) =>
          `${page}:${line}: "${words}" needs an entry in scripts/docs-limits.json, with its reason`,
      ),
    ...limits
      .filter((limit) => !claims.some((claim) => isOf(claim, limit)))
      .map(({ page, text }) => `scripts/docs-limits.json: ${page} does not say "${text}" any more`),
    ...limits
      .filter(({ reason }) => reason.trim() === '')
      .map(({ text }) => `scripts/docs-limits.json: "${text}" has no reason`),
  ];
}

/** Where a person looks for each kind of name. */
const PAGES = {
  commands: ['docs/cli.md'],
  labels: ['docs/concepts.md'],
  metrics: ['docs/monitoring.md'],
  events: ['docs/api.md', 'docs/notifications.md'],
  keys: ['docs/configuration.md', 'docs/feeds.md', 'docs/notifications.md', 'docs/api.md'],
} as const;

/** What the product has, and its page does not name. */
function undocumented(all: ReadonlyMap<string, Page>, facts: Facts): readonly string[] {
  const missing = (
    what: keyof typeof PAGES,
    names: Iterable<string>,
    is: (text: string, name: string) => boolean,
  ) => {
    const text = PAGES[what].map((path) => all.get(path)?.text ?? '').join('\n');
    return [...names]
      .filter((name) => !is(text, name))
      .map((name) => `${PAGES[what][0]}: ${name} (${what}) is not documented`);
  };
  return [
    ...missing('commands', facts.commands.keys(), (text, path) => text.includes(`### ${path}\n`)),
    ...missing('labels', facts.labels, (text, name) => text.includes(`drawbridge.${name}`)),
    ...missing('metrics', facts.metrics, (text, name) => new RegExp(`\\b${name}\\b`).test(text)),
    ...missing('events', facts.events, (text, kind) => text.includes(`\`${kind}\``)),
    ...missing(
      'keys',
      [...facts.keys].filter((key) => !key.includes('*')),
      isNamed,
    ),
  ];
}

/** A key is documented where it is written whole, or as the last word of its path: in YAML, or as code. */
function isNamed(text: string, key: string): boolean {
  const last = key.split('.').at(-1) ?? '';
  return text.includes(`\`${key}\``) || new RegExp(`(^|[\\s{,\`])${last}:|\`${last}\``, 'm').test(text);
}

/** Every sentence on one line that is wrong, with its place. */
export function problemsOf(all: readonly Page[], facts: Facts, limits: readonly Limit[]): readonly string[] {
  const lines = all.flatMap(linesOf);
  const byPath = new Map(all.map((page) => [page.path, page]));
  return [
    ...lines.flatMap((line) =>
      unknownIn(line, facts).map((problem) => `${line.page}:${line.number}: ${problem}`),
    ),
    ...all.flatMap((page) => brokenLinks(page, byPath)),
    ...all.filter(({ path }) => path.endsWith('.md')).flatMap(lengthProblems),
    ...limitProblems(all, limits),
    ...undocumented(byPath, facts),
  ];
}
