/** The forms in which events leave the service: sentences, requests to receivers, lines of JSON, syslog, OCSF and OpenTelemetry. Pure. */
import { createHash, createHmac } from 'node:crypto';
import { isIP } from 'node:net';
import type { ReceiverConfig } from '../config/endpoints.js';
import { byWeightInTurn } from '../events/event-log.js';
import type { Contact, EventData, ServiceEvent } from '../events/service-events.js';
import { shown } from '../lib/foreign-text.js';
import { PROTOCOL_NUMBERS } from '../lib/ip.js';
import { bracketed } from '../lib/units.js';
import { VERSION } from '../lib/version.js';

const EVENT_SCHEMA = 'drawbridge.event/v1';
const NOTIFICATION_SCHEMA = 'drawbridge.notification/v1';
const LONGEST_PART = 256;
const LONGEST_TEXT = 2_000;

/**
 * Text of containers, DNS and other programs as it may stand in a sentence. Control characters, characters that reverse the direction of
 * a text and characters without a width become spaces: they would end lines, or show another text than the one that is there.
 */
export function plain(text: string, longest = LONGEST_PART): string {
  const one = shown(text, () => ' ')
    .replace(/ {2,}/g, ' ')
    .trim();
  return one.length > longest ? `${one.slice(0, longest - 1)}…` : one;
}

/** How much it matters, from 1 to 4. */
export type Weight = 1 | 2 | 3 | 4;
export interface Sentence {
  readonly title: string;
  readonly text: string;
  readonly weight: Weight;
}

/** The name and the address of a destination, with port and protocol. */
function destination({
  name,
  address,
  port,
  proto,
}: Pick<Contact, 'name' | 'address' | 'port' | 'proto'>): string {
  const host = bracketed(address);
  const known = name === null ? host : address === '' ? name : `${name} (${host})`;
  const at = port === 0 ? `/${proto}` : `:${port}/${proto}`;
  return `${plain(known)}${proto === 'dns' ? '' : plain(at)}`;
}

const VERDICTS = {
  allow: { words: 'reached', weight: 1 },
  deny: { words: 'was denied', weight: 2 },
  'would-deny': { words: 'would be denied', weight: 2 },
  threat: { words: 'was kept from a threat:', weight: 4 },
  ask: { words: 'waits for a decision about', weight: 3 },
} as const satisfies Record<Contact['verdict'], { words: string; weight: Weight }>;

function contactSentence(contact: Contact, first: string): Sentence {
  const { words, weight } = VERDICTS[contact.verdict];
  const because = contact.entry ?? contact.reason;
  const text = [`${plain(because)}${contact.list === null ? '' : ` (list ${plain(contact.list)})`}`, first];
  return {
    title: `${plain(contact.container)} ${words} ${destination(contact)}`,
    text: text.filter((part) => part !== '').join('; '),
    weight,
  };
}

function askSentence(ask: EventData['ask']): Sentence {
  const name = plain(ask.container);
  if (ask.state === 'pending')
    return {
      title: `${name} asks for ${destination(ask)}`,
      text: `until ${plain(ask.until)}: drawbridge ask allow ${plain(ask.id)}, or drawbridge ask deny ${plain(ask.id)}`,
      weight: 3,
    };
  const by = ask.by === null ? '' : ` by ${plain(ask.by)}`;
  return { title: `${name}: ${destination(ask)} ${ask.state}${by}`, text: '', weight: 1 };
}

/** An event in words. */
export function sentenceOf(event: ServiceEvent): Sentence {
  switch (event.kind) {
    case 'flow':
      return contactSentence(event.data, '');
    case 'first-contact':
      return contactSentence(event.data, 'for the first time');
    case 'ask':
      return askSentence(event.data);
    case 'container':
      return {
        title: `${plain(event.data.container)}: ${event.data.action}`,
        text: plain(event.data.image),
        weight: 1,
      };
    case 'list': {
      const { list, action, source, detail } = event.data;
      const weight = action === 'refused' ? 3 : 1;
      return { title: `list ${plain(list)} (${source}) ${action}`, text: plain(detail ?? ''), weight };
    }
    case 'feed': {
      const { feed, status, reason, entries } = event.data;
      const isBad = status === 'refused' || status === 'failed';
      return {
        title: `feed ${plain(feed)}: ${plain(status)}`,
        text: reason === null ? `${entries} entries` : `${plain(reason)}; ${entries} entries in force`,
        weight: isBad ? 3 : 1,
      };
    }
    case 'coverage': {
      const { container, to, fell, reasons } = event.data;
      const words = fell ? `fell to ${plain(to)}` : `is ${plain(to)}`;
      const weight = fell ? 4 : 1;
      return {
        title: `coverage of ${plain(container)} ${words}`,
        text: plain(reasons.join('; '), LONGEST_TEXT),
        weight,
      };
    }
    case 'repair':
      return { title: 'repaired', text: plain(event.data.detail), weight: 3 };
    case 'canary':
      return {
        title: event.data.ok ? 'the canary is well again' : 'the canary found a fault in the enforcement',
        text: plain(event.data.detail, LONGEST_TEXT),
        weight: event.data.ok ? 1 : 4,
      };
  }
}

/** One message to a receiver: an event, a digest of several, or a test. */
export interface Message extends Sentence {
  readonly id: string;
  readonly type: string;
  readonly time: string;
  readonly node: string;
  readonly data: unknown;
}

/** The id of a message, without the full stop, which separates the parts that webhook-signature signs. Another host has other ids. */
export function messageId(node: string, ids: readonly string[]): string {
  const host = createHash('sha256').update(node).digest('hex').slice(0, 8);
  const ends = ids.length > 1 ? [ids[0], ids.at(-1)] : ids;
  return `evt_${host}_${ends.join('_').replaceAll('.', '-')}`;
}

const FIRST = 5;
const MOST_COUNTS = 20;

/** A value for each key, the largest first; those beyond the bound are one. */
function countsOf(keys: readonly string[]): Readonly<Record<string, number>> {
  const counts = new Map<string, number>();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const rest = sorted.slice(MOST_COUNTS).reduce((sum, [, count]) => sum + count, 0);
  return Object.fromEntries([
    ...sorted.slice(0, MOST_COUNTS),
    ...(rest > 0 ? [['(others)', rest] as const] : []),
  ]);
}
const listed = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .map(([key, count]) => `${key} ${count}`)
    .join(', ');

/**
 * The message of some events: more than one are a digest with counts and the first few, those that wait for a person before the others.
 * `leftOut`: the containers of events that it should have had.
 */
export function messageOf(
  node: string,
  events: readonly ServiceEvent[],
  leftOut: readonly string[] = [],
): Message {
  const [only, ...others] = events;
  if (!only) throw new RangeError('a message has one event or more');
  const id = messageId(
    node,
    events.map((event) => event.id),
  );
  const head = { id, node: plain(node), time: only.time };
  if (others.length === 0) {
    const { id: eventId, kind, data } = only;
    const { title, text, weight } = sentenceOf(only);
    const whole = [text, ...leftOutText(leftOut)].filter((part) => part !== '').join('\n');
    return {
      ...head,
      title,
      text: whole,
      weight,
      type: `drawbridge.${kind}`,
      data: { id: eventId, ...data },
    };
  }
  const kinds = countsOf(events.map(({ kind }) => kind));
  const containers = countsOf(
    events.flatMap(({ data }) => ('container' in data ? [plain(data.container)] : [])),
  );
  const sentences = events.map((event) => ({ event, ...sentenceOf(event) }));
  const first = byWeightInTurn(sentences).slice(0, FIRST);
  const lines = first.map(({ title, text }) => (text === '' ? title : `${title}: ${plain(text)}`));
  const [from, to] = [only.time, events.at(-1)?.time ?? only.time];
  const more = events.length - first.length;
  return {
    ...head,
    type: 'drawbridge.digest',
    title: `${events.length} events (${listed(kinds)})`,
    text: [
      ...(Object.keys(containers).length > 0 ? [`containers: ${listed(containers)}`] : []),
      ...lines,
      ...(more > 0 ? [`and ${more} more from ${from} to ${to}`] : []),
      ...leftOutText(leftOut),
    ].join('\n'),
    weight: first[0]?.weight ?? 1,
    data: {
      count: events.length,
      leftOut: leftOut.length,
      ...{ from, to, kinds, containers, first: first.map(({ event }) => event) },
    },
  };
}

const leftOutText = (containers: readonly string[]): readonly string[] => {
  const counts = countsOf(containers.map((container) => plain(container) || '(the service)'));
  return containers.length === 0 ? [] : [`left out, because too many came: ${listed(counts)}`];
};

/** What is sent to a receiver. */
export interface Outgoing {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** The body of a webhook, and the standard input of a program. */
export const jsonBody = ({ id, type, time, node, title, text, data }: Message): string =>
  JSON.stringify({ _schema: NOTIFICATION_SCHEMA, id, type, timestamp: time, node, title, text, data });

const KEY_PREFIX = 'whsec_';
/** The signature of Standard Webhooks: HMAC-SHA256 over id, time and body. A key with the prefix is base64, as its libraries expect. */
export function signature(secret: string, id: string, seconds: number, body: string): string {
  const isEncoded = secret.startsWith(KEY_PREFIX);
  const key = isEncoded ? Buffer.from(secret.slice(KEY_PREFIX.length), 'base64') : Buffer.from(secret);
  return `v1,${createHmac('sha256', key).update(`${id}.${seconds}.${body}`).digest('base64')}`;
}

/** Slack reads these as markup of links, users and channels. */
export const slackEscape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const SLACK_LONGEST = 2_900;
/** Blocks of plain text: nothing in them is markup. `text` is for notifications of the system, where markup is off. */
function slackBody({ title, text, node }: Message): string {
  const block = (of: string) => ({
    type: 'section',
    text: { type: 'plain_text', emoji: false, text: slackEscape(of).slice(0, SLACK_LONGEST) },
  });
  const head = `${title} [${node}]`;
  return JSON.stringify({
    text: slackEscape(head),
    mrkdwn: false,
    parse: 'none',
    link_names: false,
    unfurl_links: false,
    unfurl_media: false,
    blocks: [block(head), ...(text === '' ? [] : [block(text)])],
  });
}

const NTFY_PRIORITY: Readonly<Record<Weight, number>> = { 1: 2, 2: 3, 3: 4, 4: 5 };
const GOTIFY_PRIORITY: Readonly<Record<Weight, number>> = { 1: 1, 2: 4, 3: 6, 4: 8 };

/** The request that delivers a message. `secret`: the line of secret_file. `seconds`: now, since the epoch. */
export function requestOf(
  { kind, url }: Pick<ReceiverConfig, 'kind' | 'url'>,
  message: Message,
  secret: string | undefined,
  seconds: number,
): Outgoing {
  const { id, title, text, node, weight } = message;
  const headers = {
    'content-type': 'application/json; charset=utf-8',
    'user-agent': `drawbridge/${VERSION}`,
    'drawbridge-event': id,
  };
  const bearer = secret === undefined ? {} : { authorization: `Bearer ${secret}` };
  const full = text === '' ? title : text;
  if (kind === 'slack') return { url: url || (secret ?? ''), headers, body: slackBody(message) };
  if (kind === 'ntfy') {
    const at = new URL(url);
    const slash = at.pathname.lastIndexOf('/');
    const topic = at.pathname.slice(slash + 1);
    at.pathname = at.pathname.slice(0, slash + 1);
    const body = { topic, title: `${title} [${node}]`, message: full, priority: NTFY_PRIORITY[weight] };
    return { url: at.href, headers: { ...headers, ...bearer }, body: JSON.stringify(body) };
  }
  if (kind === 'gotify') {
    const at = new URL(url);
    if (!at.pathname.endsWith('/message')) at.pathname = `${at.pathname.replace(/\/$/, '')}/message`;
    const body = { title: `${title} [${node}]`, message: full, priority: GOTIFY_PRIORITY[weight] };
    const key = secret === undefined ? {} : { 'x-gotify-key': secret };
    return { url: at.href, headers: { ...headers, ...key }, body: JSON.stringify(body) };
  }
  const body = jsonBody(message);
  const signed = {
    'webhook-id': id,
    'webhook-timestamp': String(seconds),
    ...(secret !== undefined && { 'webhook-signature': signature(secret, id, seconds, body) }),
  };
  return { url, headers: { ...headers, ...signed }, body };
}

/** An event as a line of JSON has it (schemas/event.schema.json). */
export const recordOf = (node: string, { id, time, kind, data }: ServiceEvent) => ({
  _schema: EVENT_SCHEMA,
  node,
  id,
  time,
  kind,
  data,
});

const OCSF_VERSION = '1.2.0';
/** Activity, action, disposition and severity of Network Activity, by verdict. */
const OCSF = {
  allow: { activity: [6, 'Traffic'], action: [1, 'Allowed'], disposition: [1, 'Allowed'], severity: 1 },
  deny: { activity: [5, 'Refuse'], action: [2, 'Denied'], disposition: [2, 'Blocked'], severity: 2 },
  threat: { activity: [5, 'Refuse'], action: [2, 'Denied'], disposition: [2, 'Blocked'], severity: 4 },
  'would-deny': { activity: [1, 'Open'], action: [1, 'Allowed'], disposition: [17, 'Logged'], severity: 2 },
  ask: { activity: [1, 'Open'], action: [0, 'Unknown'], disposition: [14, 'Delayed'], severity: 1 },
} as const;
const OCSF_SEVERITY = ['Unknown', 'Informational', 'Low', 'Medium', 'High'] as const;
const CLASS = 4001;

/** NaN: a name that was only resolved has no protocol of IP. */
function protocolNumber(proto: string, family: number): number {
  if (proto === 'icmp') return family === 6 ? 58 : 1;
  return Number(PROTOCOL_NUMBERS[proto as keyof typeof PROTOCOL_NUMBERS] ?? proto);
}

/** A connection as Network Activity (class 4001) of the Open Cybersecurity Schema Framework; undefined: the event is of another kind. */
export function ocsfOf(node: string, event: ServiceEvent): object | undefined {
  if (event.kind !== 'flow') return undefined;
  const { container, owner, verdict, proto, address, port, name, reason, entry, list, feed, packets, bytes } =
    event.data;
  const { activity, action, disposition, severity } = OCSF[verdict];
  const family = isIP(address);
  const number = protocolNumber(proto, family);
  const rule = entry ?? feed;
  const profiles = ['security_control', 'host', 'container'];
  const product = { name: 'Drawbridge', vendor_name: 'Drawbridge', version: VERSION };
  return {
    activity_id: activity[0],
    activity_name: activity[1],
    category_uid: 4,
    category_name: 'Network Activity',
    class_uid: CLASS,
    class_name: 'Network Activity',
    type_uid: CLASS * 100 + activity[0],
    type_name: `Network Activity: ${activity[1]}`,
    severity_id: severity,
    severity: OCSF_SEVERITY[severity],
    time: Date.parse(event.time),
    message: sentenceOf(event).title,
    action_id: action[0],
    action: action[1],
    disposition_id: disposition[0],
    disposition: disposition[1],
    status_detail: reason,
    metadata: { version: OCSF_VERSION, product, profiles, uid: messageId(node, [event.id]) },
    device: { hostname: node, type_id: 1, type: 'Server' },
    src_endpoint: { name: container, owner: { name: owner }, container: { name: container } },
    dst_endpoint: {
      ...(address !== '' && { ip: address }),
      ...(name !== null && { hostname: name }),
      ...(port !== 0 && { port }),
    },
    connection_info: {
      direction_id: 2,
      direction: 'Outbound',
      ...(Number.isInteger(number) && { protocol_num: number, protocol_name: proto }),
      ...(family !== 0 && { protocol_ver_id: family }),
    },
    ...(proto === 'dns' && { app_name: 'dns' }),
    ...(rule !== null && {
      firewall_rule: {
        name: rule,
        type: entry === null ? 'threat feed' : 'entry',
        ...(list !== null && { category: list }),
      },
    }),
    traffic: { packets, bytes },
  };
}

const DAEMON = 3;
/** Severities of syslog (RFC 5424 6.2.1): informational, notice, warning, error. */
const SYSLOG_SEVERITY: Readonly<Record<Weight, number>> = { 1: 6, 2: 5, 3: 4, 4: 3 };

/** A message of RFC 5424 without structured data; its text is the JSON of the event. */
export function syslogOf(node: string, event: ServiceEvent, body: object, pid: number): string {
  const host = node.replace(/[^\x21-\x7e]/g, '_').slice(0, 255) || '-';
  const priority = DAEMON * 8 + SYSLOG_SEVERITY[sentenceOf(event).weight];
  return `<${priority}>1 ${event.time} ${host} drawbridge ${pid} ${event.kind} - ${JSON.stringify(body)}`;
}
