/** Where the service is reached (`api.listen`), and where it sends events to (`notify`, `flows`): schema, checks and values. */

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { isIP } from 'node:net';
import { type Static, Type } from '@sinclair/typebox';
import type { ServiceEvent } from '../events/service-events.js';
import { splitHostPort } from '../lib/ip.js';
import { errorText, type Problem } from '../lib/problem.js';
import { duration, Glob, words } from '../lib/schema-parts.js';
import { parseDuration } from '../lib/units.js';
import { UNIX } from './service-socket.js';

export interface TcpListener {
  /** An address, or "localhost". */
  readonly host: string;
  readonly port: number;
}

/** Returns undefined for a unix socket. */
export function tcpListener(listen: string): TcpListener | undefined {
  const at = listen.startsWith(UNIX) ? undefined : splitHostPort(listen);
  return at?.port === undefined ? undefined : { host: at.host, port: Number(at.port) };
}

/** The problem of a TCP listener that other hosts reach; undefined when it is a unix socket or on loopback. */
export function openListener(listen: string): { detail: string; remedy: string } | undefined {
  const host = tcpListener(listen)?.host;
  if (host === undefined || /^(127\.|localhost$|::1$|::ffff:127\.)/.test(host)) return undefined;
  return {
    detail: `api.listen: ${listen} is reached from other hosts, and tokens cross the network as they are`,
    remedy: 'listen on 127.0.0.1 behind a proxy that ends TLS, or reach it through a VPN or SSH tunnel only',
  };
}

/** What a receiver can subscribe to: a kind of event, or a kind and the state of its events that matter. */
const EVENT_FILTERS = [
  'flow',
  'flow:denied',
  'flow:would-deny',
  'flow:threat',
  'first-contact',
  'first-contact:denied',
  'first-contact:would-deny',
  'first-contact:threat',
  'ask',
  'ask:pending',
  'container',
  'list',
  'list:refused',
  'feed',
  'feed:failed',
  'coverage',
  'coverage:fell',
  'repair',
  'canary',
  'canary:failed',
] as const;
export type EventFilter = (typeof EVENT_FILTERS)[number];

/** What a person should know of: the events of a receiver without `events`. */
export const ALERTS: readonly EventFilter[] = [
  'first-contact:denied',
  'first-contact:would-deny',
  'flow:threat',
  'ask:pending',
  'coverage:fell',
  'repair',
  'feed:failed',
  'canary:failed',
];

/** Whether an event is in the state that a filter names; its kind is the same already. */
function isInState(event: ServiceEvent, state: string): boolean {
  switch (event.kind) {
    case 'flow':
    case 'first-contact':
      return event.data.verdict === (state === 'denied' ? 'deny' : state);
    case 'ask':
      return event.data.state === state;
    case 'list':
      return event.data.action === state;
    case 'feed':
      return event.data.status === 'refused' || event.data.status === 'failed';
    case 'coverage':
      return event.data.fell;
    case 'canary':
      return !event.data.ok;
    default:
      return false;
  }
}

export function passesFilter(event: ServiceEvent, filter: EventFilter): boolean {
  const [kind, state] = filter.split(':');
  return event.kind === kind && (state === undefined || isInState(event, state));
}

const MOST_RECEIVERS = 16;

const ReceiverSchema = Type.Object(
  {
    name: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$',
        description: 'the name of the receiver; left out: its kind',
        examples: ['on-call'],
      }),
    ),
    kind: words(['json', 'slack', 'ntfy', 'gotify', 'exec'], {
      description: 'json: a webhook; exec: a program on this host',
    }),
    url: Type.Optional(
      Type.String({
        pattern: '^https?://[^\\s]+$',
        description: 'where it is sent to',
        examples: ['https://ntfy.sh/my-topic'],
      }),
    ),
    command: Type.Optional(
      Type.Array(Type.String(), {
        minItems: 1,
        maxItems: 64,
        description: 'exec: the program and its arguments; the event is JSON on its standard input',
        examples: [['/usr/local/bin/on-event', '--quiet']],
      }),
    ),
    events: Type.Optional(
      Type.Array(words(EVENT_FILTERS), {
        minItems: 1,
        uniqueItems: true,
        description: 'left out: what a person should know of (docs/notifications.md)',
        examples: [['flow:threat', 'canary:failed']],
      }),
    ),
    containers: Type.Optional(
      Type.Array(Glob, { minItems: 1, description: 'globs of the names of containers; left out: all' }),
    ),
    secret_file: Type.Optional(
      Type.String({
        pattern: '^/',
        description:
          'a file with one line: the key of the signature (json), the token (ntfy, gotify), the URL (slack)',
        examples: ['/etc/drawbridge/slack.url'],
      }),
    ),
    digest: Type.Integer({
      minimum: 0,
      maximum: 1000,
      default: 10,
      description: 'so many events a minute are sent one by one, more as one digest; 0: never a digest',
      examples: [10],
    }),
    timeout: duration('10s', 'the longest time of one delivery'),
  },
  { additionalProperties: false },
);

export const NotifySchema = Type.Array(ReceiverSchema, {
  default: [],
  maxItems: MOST_RECEIVERS,
  description: 'receivers of events: webhooks, chats, push services, programs',
});

/** Keys of `flows`: where all events are recorded. */
export const RECORD_KEYS = {
  file: Type.String({
    pattern: '^$|^/',
    default: '',
    description: 'a file to which every event is appended as a line of JSON; empty: none',
    examples: ['/var/log/drawbridge/events.jsonl'],
  }),
  syslog: Type.String({
    pattern: '^$|^/|^(udp|tcp)://[^\\s/]+:\\d{1,5}$',
    default: '',
    description: 'a syslog server for every event (RFC 5424); empty: none',
    examples: ['/dev/log', 'udp://10.0.0.5:514', 'tcp://10.0.0.5:601'],
  }),
  format: words(['json', 'ocsf'], {
    default: 'json',
    description:
      'the form of the events in file and syslog; ocsf: connections only, as Network Activity (4001)',
  }),
};

type RawReceiver = Static<typeof ReceiverSchema>;

export interface ReceiverConfig {
  /** No two receivers have the same. It names the file of the queue. */
  readonly name: string;
  readonly kind: RawReceiver['kind'];
  /** Empty: kind exec, or slack with the URL in `secretFile`. */
  readonly url: string;
  /** Empty unless the kind is exec. */
  readonly command: readonly string[];
  readonly events: readonly EventFilter[];
  /** Globs; empty: all containers. */
  readonly containers: readonly string[];
  readonly secretFile: string | undefined;
  readonly digest: number;
  readonly timeoutMs: number;
}

/** A receiver without a name has that of its kind: a second one of the same kind needs a name. */
const nameOf = ({ name, kind }: RawReceiver): string => name ?? kind;

type Fault = Omit<Problem, 'pointer'> & { readonly key: keyof RawReceiver };

function execFaults({ url, command, secret_file }: RawReceiver): readonly Fault[] {
  const faults: Fault[] = [];
  if (!command?.[0]?.startsWith('/'))
    faults.push({
      key: 'command',
      detail: 'kind exec needs the program with its whole path',
      remedy: 'write command: [/usr/local/bin/on-event]',
    });
  if (url !== undefined)
    faults.push({ key: 'url', detail: 'kind exec has no url', remedy: 'write command instead' });
  if (secret_file !== undefined)
    faults.push({
      key: 'secret_file',
      detail: 'kind exec uses no secret',
      remedy: 'remove it: the program can read its own files',
    });
  return faults;
}

function urlFaults({ kind, url, secret_file }: RawReceiver): readonly Fault[] {
  if (url === undefined)
    return kind === 'slack' && secret_file !== undefined
      ? []
      : [{ key: 'url', detail: `kind ${kind} needs a url`, remedy: 'write url: https://…' }];
  const faults: Fault[] = [];
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (!parsed)
    faults.push({ key: 'url', detail: 'the url cannot be read', remedy: 'write it like https://host/path' });
  if (parsed && (parsed.username !== '' || parsed.password !== ''))
    faults.push({
      key: 'url',
      detail: 'the url contains a user or a password',
      remedy: 'write the token into a file, and name that as secret_file',
    });
  if (kind === 'ntfy' && parsed && !/\/[A-Za-z0-9_-]{1,64}$/.test(parsed.pathname))
    faults.push({
      key: 'url',
      detail: 'the url names no topic of ntfy',
      remedy: 'write it like https://ntfy.sh/my-topic',
    });
  if (kind === 'gotify' && secret_file === undefined)
    faults.push({
      key: 'secret_file',
      detail: 'kind gotify needs the token of an application',
      remedy: 'write it to a file that only root reads, and name that as secret_file',
    });
  return faults;
}

function faultsOf(receiver: RawReceiver): readonly Fault[] {
  if (receiver.kind === 'exec') return execFaults(receiver);
  if (receiver.command === undefined) return urlFaults(receiver);
  const fault = { detail: `kind ${receiver.kind} runs no command`, remedy: 'write kind: exec' };
  return [{ key: 'command', ...fault }, ...urlFaults(receiver)];
}

/** Every problem of the receivers, each with its pointer. */
export function notifyFaults(receivers: readonly RawReceiver[]): readonly Problem[] {
  const names = receivers.map(nameOf);
  return receivers.flatMap((receiver, index) => {
    const pointer = `/notify/${index}`;
    const isTwice = names.indexOf(nameOf(receiver)) !== index;
    const twice = {
      detail: `two receivers have the name "${nameOf(receiver)}"`,
      remedy: 'give one of them another name',
      pointer: receiver.name === undefined ? pointer : `${pointer}/name`,
    };
    const faults = faultsOf(receiver).map(({ key, detail, remedy }) => ({
      detail: `receiver ${nameOf(receiver)}: ${detail}`,
      remedy,
      pointer: receiver[key] === undefined ? pointer : `${pointer}/${key}`,
    }));
    return [...faults, ...(isTwice ? [twice] : [])];
  });
}

export function resolveNotify(receivers: readonly RawReceiver[]): readonly ReceiverConfig[] {
  return receivers.map((receiver) => {
    const { kind, url = '', command = [], events = ALERTS, containers = [], secret_file, digest } = receiver;
    const timeout = parseDuration(receiver.timeout);
    const timeoutMs = timeout.ok && timeout.value > 0 ? timeout.value : 10_000;
    const name = nameOf(receiver);
    return { name, kind, url, command, events, containers, secretFile: secret_file, digest, timeoutMs };
  });
}

/** The host of a URL is this host: what is sent there crosses no network. */
export function isLoopback(url: string): boolean {
  const host = URL.canParse(url) ? new URL(url).hostname.replace(/^\[|\]$/g, '') : '';
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/** Receivers that get a token or events over a network without TLS, in words. */
export function plainReceivers(
  receivers: readonly ReceiverConfig[],
): readonly { readonly detail: string; readonly remedy: string }[] {
  return receivers
    .filter(({ url }) => url.startsWith('http:') && !isLoopback(url))
    .map(({ name, kind, url, secretFile }) => {
      const sendsToken = secretFile !== undefined && (kind === 'ntfy' || kind === 'gotify');
      const what = sendsToken ? 'its token and events cross' : 'events cross';
      return {
        detail: `notify: receiver ${name}: ${what} the network unencrypted (${new URL(url).origin})`,
        remedy: 'use an https address, or one on this host',
      };
    });
}

const OTHERS_READ = 0o007;
const GROUP_WRITES = 0o020;
const MOST_SECRET = 4096;

/** The line of a secret file. Throws when it cannot be read, or when users who should not can read or change it. */
export async function readSecret(path: string): Promise<string> {
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stat = await file.stat();
  if (!stat.isFile()) throw new Error('it is not a regular file');
  if ((stat.mode & (OTHERS_READ | GROUP_WRITES)) !== 0)
    throw new Error('other users can read or change it: chmod 600 it');
  const { buffer, bytesRead } = await file.read(Buffer.alloc(MOST_SECRET), 0, MOST_SECRET, 0);
  const secret = buffer.toString('utf8', 0, bytesRead).trim();
  if (secret === '' || /[^\x21-\x7e]/.test(secret)) throw new Error('it is not one line of printable ASCII');
  return secret;
}

/** Secret files of receivers that cannot be read, or that other users can. */
export async function unusableSecrets(
  receivers: readonly ReceiverConfig[],
): Promise<readonly { readonly detail: string; readonly remedy: string }[]> {
  const remedy = 'write the secret to that file, one line, readable by root only';
  const found = receivers.map(async ({ name, secretFile: file }) => {
    if (file === undefined) return [];
    const why = await readSecret(file).then(() => undefined, errorText);
    return why === undefined ? [] : [{ detail: `receiver ${name}: ${file} cannot be used: ${why}`, remedy }];
  });
  return (await Promise.all(found)).flat();
}
