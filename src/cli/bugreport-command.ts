import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { arch, hostname, release, version } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import { CONFIG_VARIABLE, DEFAULT_FILE, PREFIX } from '../config/service-socket.js';
import type { Exec } from '../kernel/exec.js';
import { isRecord } from '../lib/json.js';
import { codeOrText, detailOf, shownProblem } from '../lib/problem.js';
import { VERSION } from '../lib/version.js';
import { ARP_TABLE, BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import { IDENTITY_TABLE } from '../ruleset/host-identity.js';
import type { Registry, Session } from './command.js';
import { fail, failureOf } from './failure.js';

interface Options {
  readonly out?: string;
  readonly withNames?: boolean;
}
/** Files by name. */
type Files = Map<string, string>;

/** What each file contains, for the person that reads it before it is sent. */
const CONTENTS: Readonly<Record<string, string>> = {
  'versions.txt': 'versions of drawbridge, Node, the kernel, its tools and the distribution',
  'docker.json': 'version and settings of Docker',
  'doctor.json': 'the result of drawbridge doctor',
  'status.json': 'the result of drawbridge status, or why the service does not answer',
  'containers.json': 'containers: images, modes, coverage, entries, counts',
  'lists.json': 'names of lists and how many entries they have',
  'feeds.json': 'threat feeds and their state',
  'plan.json': 'what differs between the kernel and the desired rules',
  'config.json': 'the configuration file, without secrets, and the names of variables that change it',
  'iptables.txt': 'rules of Drawbridge',
  'ip6tables.txt': 'rules of Drawbridge for IPv6',
  'nft.txt': 'tables of Drawbridge, without members of sets',
  'ipsets.txt': 'sets of Drawbridge, without members',
  'routing.txt': 'policy routing rules of this host',
  'log.txt': 'the last lines of the log of the unit drawbridge',
};
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

export function bugreportCommand(program: Command, registry: Registry): void {
  registry.add<[], Options>(program, {
    usage: 'bugreport',
    summary: 'write a folder with what a report of a bug needs, without secrets and names of destinations',
    options: [
      ['--out <dir>', 'the folder to make; default: drawbridge-bugreport-TIME in the working directory'],
      ['--with-names', 'with the names and addresses of destinations'],
    ],
    examples: ['bugreport', 'bugreport --out /root/report', 'bugreport --with-names'],
    run: async (session, _args, { out, withNames = false }) => {
      const folder = resolve(
        out ?? `drawbridge-bugreport-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`,
      );
      await mkdir(folder, { mode: FOLDER_MODE }).catch((e: unknown) =>
        fail(`cannot make ${folder}: ${codeOrText(e)}`, 'name a folder that does not exist yet: --out DIR'),
      );
      await chmod(folder, FOLDER_MODE);
      const files = await collected(session, withNames);
      const readme = readmeOf([...files.keys()], withNames);
      for (const [name, text] of [['README.txt', readme] as const, ...files])
        await writeFile(join(folder, name), text, { mode: FILE_MODE, flag: 'wx' });
      const names = ['README.txt', ...files.keys()];
      session.out.show({ folder, files: names, withNames }, () => {
        session.out.line(readme.trimEnd());
        session.out.line(`\nwritten to ${folder}: read it, then pack it with`);
        session.out.line(`  tar -C ${join(folder, '..')} -czf ${folder}.tar.gz ${folder.split('/').at(-1)}`);
      });
      return 0;
    },
  });
}

const readmeOf = (names: readonly string[], withNames: boolean): string =>
  [
    'A report of a bug in drawbridge. Read every file before you send it.',
    '',
    ...names.map((name) => `${name.padEnd(16)} ${CONTENTS[name] ?? ''}`.trimEnd()),
    '',
    'Left out: tokens, passwords, the query, user and path of URLs that may contain secrets, and the content of files with secrets.',
    withNames
      ? 'Names and addresses of destinations are IN it (--with-names).'
      : 'Names and addresses of destinations are replaced by numbers: <name 1> is the same name in all files.',
    'In it: names and images of containers, names of lists, networks, interfaces and of this host.',
    '',
  ].join('\n');

async function collected(session: Session, withNames: boolean): Promise<Files> {
  const { host } = session;
  const lenient = await session.lenientConfig();
  const files: Files = new Map(await host.hostReport(lenient));
  const json = async (name: string, read: () => Promise<unknown>): Promise<void> => {
    const value = await read().catch((e: unknown) => ({ error: failureOf(e).problems.map(shownProblem) }));
    files.set(name, `${JSON.stringify(value, undefined, 2)}\n`);
  };
  const client = await session.client().catch(() => undefined);
  const ask = <T>(read: (c: NonNullable<typeof client>) => Promise<T>) => {
    return async (): Promise<T> =>
      client ? read(client) : fail('the socket of the service is not known', 'repair its configuration');
  };
  const destinations = new Destinations();
  await json('doctor.json', () => host.runDoctor(lenient));
  await json(
    'status.json',
    ask((c) => c.anyStatus()),
  );
  await json(
    'containers.json',
    ask((c) => c.containers()),
  );
  await json(
    'lists.json',
    ask(async (c) => {
      const lists = await c.lists();
      for (const { allow } of lists) for (const entry of allow) destinations.learn(entry);
      return withNames ? lists : lists.map(({ allow, ...list }) => ({ ...list, entries: allow.length }));
    }),
  );
  await json(
    'feeds.json',
    ask((c) => c.feeds()),
  );
  await json(
    'plan.json',
    ask((c) => c.plan()),
  );
  await json('config.json', () => configuration(session));
  if (withNames) return files;
  destinations.learnContainers(files.get('containers.json') ?? '');
  return new Map([...files].map(([name, text]) => [name, destinations.leftOut(text)]));
}

/** What decides about the configuration: the file as it is, without secrets, and its problems. */
async function configuration(session: Session): Promise<unknown> {
  const file = session.file ?? (session.host.env[CONFIG_VARIABLE] || DEFAULT_FILE);
  const variables = Object.keys(session.host.env).filter((name) => name.startsWith(PREFIX));
  const text = await readFile(file, 'utf8').catch((e: Error) => e);
  if (typeof text !== 'string') return { file, variables, error: codeOrText(text) };
  const { parseYaml } = await import('../lib/yaml.js');
  const { value, problems } = parseYaml(text, file);
  const refused = await session.config().then(
    () => [],
    (e: unknown) => failureOf(e).problems.map(({ detail: _, ...place }) => place),
  );
  const content =
    value === undefined ? `not shown: it has ${problems.length} errors of YAML` : withoutSecrets(value);
  return { file, variables, content, refused };
}

const REMOVED = '(removed)';
/** Keys with a secret. `file` and `secret_file` name a file, which is not read. */
const SECRET = /token|secret|password|passwd|credential|authorization|(^|[_-])key$/i;
const NAMES_A_FILE = /file$/i;

/** The value without the texts that are, or may contain, a secret. Kept: keys, numbers, and the host and scheme of URLs. */
export function withoutSecrets(value: unknown, key = ''): unknown {
  if (Array.isArray(value)) return value.map((item) => withoutSecrets(item, key));
  if (isRecord(value))
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, withoutSecrets(v, k)]));
  if (typeof value !== 'string') return value;
  if (SECRET.test(key) && !NAMES_A_FILE.test(key)) return REMOVED;
  return value.replace(/\b([a-z][a-z0-9+.-]*:\/\/)([^\s'"]+)/gi, (_, scheme: string, rest: string) => {
    const host = /^(?:[^@/?#]*@)?([^/?#]*)/.exec(rest.slice(rest.lastIndexOf('@') + 1))?.[1] ?? '';
    const isWhole = rest === host || rest === `${host}/`;
    return scheme === 'unix:' || isWhole ? `${scheme}${rest}` : `${scheme}${host}/${REMOVED}`;
  });
}

/** Names end in letters; what has one of these endings is a file, a label or a version. */
const NAME = /(?<![\w.@/-])(?:\*\.|\.)?(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)+[a-z][a-z0-9-]*(?![\w/-])/g;
const NO_NAME =
  /^(drawbridge\.|com\.docker\.|net\.|kernel\.)|\.(yaml|yml|json|sock|c?js|ts|conf|service|log|txt|map|sh)$/;
const V4 = /(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])/g;
const V6 = /(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:.])/gi;
/** Of networks of hosts and containers: what rules and coverage are about. They are replaced only as part of an entry. */
const OWN =
  /^(0\.|10\.|127\.|169\.254\.|172\.(1[6-9]|2\d|3[01])\.|192\.168\.|22[4-9]\.|2[3-5]\d\.|f[cdef]|::1?$)/i;

/** Numbers in place of the destinations of containers. */
export class Destinations {
  readonly #numbers = new Map<string, string>();
  readonly #counts = { name: 0, address: 0 };

  /** An entry of a list, in either form. */
  learn(entry: unknown): void {
    const text = isRecord(entry) ? entry.to : entry;
    if (typeof text !== 'string') return;
    for (const [found] of text.matchAll(NAME)) this.#number('name', found.replace(/^\*?\./, ''));
    for (const pattern of [V4, V6])
      for (const [found] of text.matchAll(pattern)) this.#number('address', found);
  }

  /** Entries, grants and addresses of the answer of GET /v1/containers. */
  learnContainers(json: string): void {
    const containers: unknown = JSON.parse(json);
    for (const c of Array.isArray(containers) ? containers : [])
      for (const { entry, addresses = [] } of [...c.entries, ...c.grants]) {
        this.learn(entry);
        for (const address of addresses) this.learn(address);
      }
  }

  /** The text without the destinations that were learned, public addresses, and whatever looks like a name. */
  leftOut(text: string): string {
    const address = (found: string): string => {
      const known = this.#numbers.get(found);
      return known ?? (OWN.test(found) ? found : this.#number('address', found));
    };
    return text
      .replaceAll(NAME, (found) => {
        const bare = found.replace(/^\*?\./, '');
        const known = this.#numbers.get(bare);
        if (known === undefined && (NO_NAME.test(bare) || bare === hostname())) return found;
        return found.slice(0, found.length - bare.length) + (known ?? this.#number('name', bare));
      })
      .replaceAll(V4, address)
      .replaceAll(V6, (found) => (found.length > 3 ? address(found) : found));
  }

  #number(kind: 'name' | 'address', text: string): string {
    const known = this.#numbers.get(text);
    if (known !== undefined) return known;
    const number = `<${kind} ${++this.#counts[kind]}>`;
    this.#numbers.set(text, number);
    return number;
  }
}

/** Characters of one file. */
const LONGEST = 2 * 1024 * 1024;
const LOG_LINES = 2_000;
/** Packets, bytes and members change with each report, and members are destinations: `-t` leaves them out. */
const TABLES = [`bridge ${BRIDGE_TABLE}`, BACKSTOP_TABLE, ARP_TABLE, IDENTITY_TABLE];

/** Files by name. What cannot be read is one line that has the reason. */
export async function hostReport(config: Config): Promise<ReadonlyMap<string, string>> {
  const { exec: run } = await import('../kernel/exec.js');
  const { prefix } = config.kernel;
  const files = {
    'versions.txt': versions(run),
    'docker.json': docker(config.docker.socket),
    'iptables.txt': output(run, 'iptables-save').then((text) => ownRules(text, prefix)),
    'ip6tables.txt': output(run, 'ip6tables-save').then((text) => ownRules(text, prefix)),
    'nft.txt': Promise.all(
      TABLES.map((t) => output(run, 'nft', '-t', 'list', 'table', ...t.split(' '))),
    ).then((texts) => texts.join('\n')),
    'ipsets.txt': output(run, 'ipset', 'list', '-terse').then((text) => ownSets(text, prefix)),
    'routing.txt': Promise.all([output(run, 'ip', 'rule'), output(run, 'ip', '-6', 'rule')]).then((texts) =>
      texts.join('\n'),
    ),
    'log.txt': output(run, 'journalctl', '-u', 'drawbridge', '-n', `${LOG_LINES}`, '--no-pager', '-o', 'cat'),
  };
  const read = Object.entries(files).map(
    async ([name, text]) => [name, (await text).slice(-LONGEST)] as const,
  );
  return new Map(await Promise.all(read));
}

async function output(run: Exec, file: string, ...args: string[]): Promise<string> {
  const command = [file, ...args].join(' ');
  try {
    const { code, stdout, stderr } = await run(file, args);
    return code === 0 ? stdout : `# ${command} failed (exit code ${code}): ${stderr.trim()}\n`;
  } catch (e) {
    return `# ${command} cannot be run: ${detailOf(e)}\n`;
  }
}

async function versions(run: Exec): Promise<string> {
  const tools = [['iptables'], ['ip6tables'], ['nft'], ['ipset'], ['ip', '-V']].map(
    ([file = '', flag = '--version']) => output(run, file, flag),
  );
  const system = await readFile('/etc/os-release', 'utf8').catch((e: unknown) => `# ${detailOf(e)}\n`);
  return [
    `drawbridge ${VERSION}`,
    `node ${process.version}`,
    `kernel ${release()} ${version()} ${arch()}`,
    ...(await Promise.all(tools)).map((text) => text.trimEnd()),
    system,
  ].join('\n');
}

async function docker(socket: string): Promise<string> {
  const { openEngine } = await import('../docker/open-engine.js');
  await using engine = openEngine(socket);
  try {
    return `${JSON.stringify(await engine.info(), undefined, 2)}\n`;
  } catch (e) {
    return `${JSON.stringify({ error: detailOf(e) })}\n`;
  }
}

/** Chains that begin with the prefix, and rules of other chains that lead to them. */
export function ownRules(text: string, prefix: string): string {
  const isOwn = new RegExp(`^#|^[*]|^COMMIT|^:${prefix}-|^-A ${prefix}-| -[jg] ${prefix}-|"?${prefix}:`);
  return text
    .split('\n')
    .filter((line) => isOwn.test(line))
    .map((line) => `${line}\n`)
    .join('');
}

/** `ipset list -terse` prints a paragraph for each set. */
export const ownSets = (text: string, prefix: string): string =>
  text
    .split('\n\n')
    .filter((set) => set.startsWith('#') || set.startsWith(`Name: ${prefix}-`))
    .map((set) => `${set.trimEnd()}\n\n`)
    .join('');
