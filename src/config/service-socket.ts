/**
 * Where the service of this host listens, and where its configuration is. A command that only sends a request needs no
 * more of the configuration, and checking all of it (load.ts) loads several hundred modules.
 */

import { readFileSync } from 'node:fs';
import { join, normalize } from 'node:path';
import { errorCode } from '../lib/problem.js';

export const DEFAULT_FILE = '/etc/drawbridge/config.yaml';
export const PREFIX = 'DRAWBRIDGE_';
/** Names the file to read; it is no key of the configuration. */
export const CONFIG_VARIABLE = 'DRAWBRIDGE_CONFIG';
export const UNIX = 'unix:';
export const DEFAULT_LISTEN = `${UNIX}/run/drawbridge/api.sock`;
export const DEFAULT_STATE = '/var/lib/drawbridge';
export const LISTEN_PATTERN = '^(unix:/.+|\\[[0-9a-fA-F:]+\\]:\\d{1,5}|[^:\\s]+:\\d{1,5})$';

/** The top-level keys of the configuration (schema.ts). */
export const SECTIONS = [
  ...['docker', 'node', 'default', 'baseline', 'unattributed', 'networks', 'eastWest', 'allowlists', 'state'],
  ...[
    'store',
    'api',
    'dns',
    'labels',
    'deny',
    'failure',
    'threats',
    'flows',
    'canary',
    'notify',
    'log',
    'kernel',
    'tls',
  ],
] as const;
export const API_KEYS = ['listen', 'tokens'] as const;

/** The kernel's own file systems: nothing can be kept there, and Node makes folders in /proc without end. */
const KERNELS = /^\/(proc|sys)(\/|$)/;
export const isOfTheKernel = (folder: string): boolean => KERNELS.test(normalize(folder));

/** The unix socket of the service on this host: `api.listen` itself, or one in the state folder when that is TCP. */
export function localSocketOf({ api, state }: { api: { listen: string }; state: string }): string {
  return api.listen.startsWith(UNIX) ? api.listen.slice(UNIX.length) : join(state, 'api.sock');
}

interface Sources {
  /** `--config FILE`. */
  readonly file: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Variables that set `api.listen` or `state` (overlay.ts). */
const VARIABLES = /^DRAWBRIDGE_(API_LISTEN|STATE)(_FILE)?$/;

/**
 * The socket by the configuration's file; undefined where the whole configuration must be read: it has an error in what
 * decides the socket, or the environment decides. Keys of other sections are not checked.
 */
export async function quickSocket({ file, env }: Sources): Promise<string | undefined> {
  if (Object.keys(env).some((name) => VARIABLES.test(name))) return undefined;
  const named = file ?? (env[CONFIG_VARIABLE] || undefined);
  try {
    return await socketIn(readFileSync(named ?? DEFAULT_FILE, 'utf8'));
  } catch (e) {
    const isAbsent = errorCode(e) === 'ENOENT' && named === undefined;
    return isAbsent ? socketIn('') : undefined;
  }
}

/** The same for the text of the file. */
export async function socketIn(text: string): Promise<string | undefined> {
  const plain = plainValue(text);
  if (plain) return socketOf(plain);
  const { parseYaml } = await import('../lib/yaml.js');
  const { value, problems } = parseYaml(text, '');
  return value === undefined || problems.length > 0 ? undefined : socketOf(value ?? {});
}

const SECTION_LINE = new RegExp(`^(${SECTIONS.join('|')}):(?: |$)`);
const STATE_LINE = /^state: +(\/[\w./-]*)(?: +#.*)?$/;
const LISTEN_LINE = /^ +listen: +(unix:\/[\w./-]+)(?: +#.*)?$/;

/**
 * `api` and `state` of a text with all its keys in block style; undefined for any other text, which needs the YAML reader
 * (75 modules). If the first line is a key without indentation, the root is a block mapping whose keys all have none, and
 * no value of it continues on a line without indentation (YAML 1.2.2, 8.2.2). An escape sequence, a directive or a tag could make a key
 * of other characters. A value may continue on an indented line: none may follow that of `state` or `listen`.
 */
function plainValue(text: string): { readonly api: object; readonly state: string | undefined } | undefined {
  const lines = text
    .split('\n')
    .map((line) => line.replace(/[ \t\r]+$/, ''))
    .filter((line) => !/^[ \t]*(?:#|$)/.test(line));
  if (lines.some((line) => /[\\%!\r]/.test(line))) return undefined;
  const seen = new Set<string>();
  let [section, listen, state] = ['', '', ''];
  for (const line of lines) {
    const key = SECTION_LINE.exec(line)?.[1];
    if (key !== undefined) {
      if (seen.has(key) || (key === 'api' && line !== 'api:')) return undefined;
      seen.add(key);
      section = key;
      if (key === 'state') state = STATE_LINE.exec(line)?.[1] ?? '';
      if (key === 'state' && state === '') return undefined;
    } else {
      if (!line.startsWith(' ') || section === '' || section === 'state') return undefined;
      if (section !== 'api') continue;
      if (listen !== '') return undefined;
      listen = LISTEN_LINE.exec(line)?.[1] ?? '';
      if (listen === '') return undefined;
    }
  }
  return { api: listen === '' ? {} : { listen }, state: state === '' ? undefined : state };
}

function socketOf(value: unknown): string | undefined {
  if (!hasOnly(value, SECTIONS)) return undefined;
  const api = value.api ?? {};
  if (!hasOnly(api, API_KEYS)) return undefined;
  const listen = api.listen ?? DEFAULT_LISTEN;
  const state = value.state ?? DEFAULT_STATE;
  if (typeof listen !== 'string' || typeof state !== 'string') return undefined;
  if (!isListener(listen) || !state.startsWith('/') || isOfTheKernel(state)) return undefined;
  return localSocketOf({ api: { listen }, state });
}

/** A unix socket, or an address on which a service usually listens; other texts are checked with the whole configuration. */
const isListener = (listen: string): boolean =>
  new RegExp(LISTEN_PATTERN).test(listen) &&
  (listen.startsWith(UNIX) || /^(127\.0\.0\.1|localhost|0\.0\.0\.0):[1-9]\d{0,3}$/.test(listen));

/** A map of YAML with no other keys: not a list, nor a value of a tag, such as a timestamp. */
const hasOnly = (value: unknown, keys: readonly string[]): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' &&
  value !== null &&
  Object.getPrototypeOf(value) === Object.prototype &&
  Object.keys(value).every((key) => keys.includes(key));
