/** Records all events where the configuration and the environment want them. No output ever delays an event. */
import type { Config } from '../config/config.js';
import type { EventLog } from '../events/event-log.js';
import type { ServiceEvent } from '../events/service-events.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { VERSION } from '../lib/version.js';
import { Deliveries, Delivery, type Outcome } from './delivery.js';
import { BY_LANE, EventQueue } from './event-queue.js';
import { ocsfOf, recordOf, sentenceOf, syslogOf, type Weight } from './formats.js';
import { post } from './receiver.js';
import { FileSink, type Sink, SyslogSink } from './record-sinks.js';

const LAST_MS = 1_000;
const MOST_WAIT_MS = 60_000;

const begin = (sink: Sink, log: Logger): Delivery =>
  new Delivery({
    output: sink,
    queue: new EventQueue(BY_LANE),
    log,
    select: () => 'send',
    plan: (queued) => ({ count: Math.min(queued, sink.batch), waitMs: 0 }),
    maxAgeMs: Number.POSITIVE_INFINITY,
    mostWaitMs: MOST_WAIT_MS,
    lastMs: LAST_MS,
  });

type OtlpValue = { readonly stringValue: string } | { readonly intValue: string };
interface OtlpAttribute {
  readonly key: string;
  readonly value: OtlpValue;
}
const otlpAttributes = (
  values: Readonly<Record<string, string | number | null | undefined>>,
): readonly OtlpAttribute[] =>
  Object.entries(values).flatMap(([key, value]) => {
    if (value === null || value === undefined || value === '') return [];
    return [{ key, value: typeof value === 'number' ? { intValue: String(value) } : { stringValue: value } }];
  });

const OTLP_SEVERITY: Readonly<Record<Weight, readonly [number, string]>> = {
  1: [9, 'INFO'],
  2: [10, 'INFO2'],
  3: [13, 'WARN'],
  4: [17, 'ERROR'],
};

/** A log record of OpenTelemetry in the JSON encoding of OTLP: 64-bit numbers are texts. */
function otlpRecord(event: ServiceEvent, now: number): object {
  const { title, weight } = sentenceOf(event);
  const [severityNumber, severityText] = OTLP_SEVERITY[weight];
  const data: Readonly<Record<string, unknown>> = { ...event.data };
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
  return {
    timeUnixNano: `${Date.parse(event.time)}000000`,
    observedTimeUnixNano: `${now}000000`,
    severityNumber,
    severityText,
    eventName: `drawbridge.${event.kind}`,
    body: { stringValue: title },
    attributes: otlpAttributes({
      'event.name': `drawbridge.${event.kind}`,
      'event.id': event.id,
      'container.name': text(data.container),
      'destination.address': text(data.name) ?? text(data.address),
      'network.peer.address': text(data.address),
      'destination.port': typeof data.port === 'number' && data.port > 0 ? data.port : undefined,
      'network.transport': text(data.proto),
      'drawbridge.verdict': text(data.verdict),
      'drawbridge.data': JSON.stringify(event.data),
    }),
  };
}

type Env = Readonly<Record<string, string | undefined>>;

/** Pairs of OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS: key=value with commas, values percent-encoded (W3C Baggage). */
function pairsOf(text: string | undefined): Readonly<Record<string, string>> {
  const pairs = (text ?? '').split(',').flatMap((pair) => {
    const at = pair.indexOf('=');
    const key = pair.slice(0, at).trim();
    return at > 0 && key !== '' ? [[decoded(key), decoded(pair.slice(at + 1).trim())] as const] : [];
  });
  return Object.fromEntries(pairs);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that begins no code
  }
}

interface OtlpSettings {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly resource: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}
const TIMEOUT_MS = 10_000;

/** The variables of OpenTelemetry's specification; undefined: no endpoint is set, or the exporter is turned off. */
export function otlpSettings(env: Env, node: string): OtlpSettings | undefined {
  const own = env.OTEL_EXPORTER_OTLP_LOGS_ENDPOINT || undefined;
  const all = env.OTEL_EXPORTER_OTLP_ENDPOINT || undefined;
  const isOff = env.OTEL_SDK_DISABLED?.toLowerCase() === 'true' || env.OTEL_LOGS_EXPORTER === 'none';
  const url = own ?? (all && `${all.replace(/\/$/, '')}/v1/logs`);
  if (isOff || url === undefined) return undefined;
  const headers = pairsOf(env.OTEL_EXPORTER_OTLP_LOGS_HEADERS ?? env.OTEL_EXPORTER_OTLP_HEADERS);
  const timeout = Number(env.OTEL_EXPORTER_OTLP_LOGS_TIMEOUT ?? env.OTEL_EXPORTER_OTLP_TIMEOUT);
  const given = pairsOf(env.OTEL_RESOURCE_ATTRIBUTES);
  const name = env.OTEL_SERVICE_NAME || given['service.name'] || 'drawbridge';
  const resource = { 'host.name': node, 'service.version': VERSION, ...given, 'service.name': name };
  return { url, headers, resource, timeoutMs: timeout > 0 ? timeout : TIMEOUT_MS };
}

/** What is wrong with the variables; empty: nothing. */
function otlpFault({ url }: OtlpSettings, env: Env): string {
  if (!/^https?:/.test(URL.canParse(url) ? new URL(url).protocol : '')) return `${url} is no http address`;
  const protocol = env.OTEL_EXPORTER_OTLP_LOGS_PROTOCOL ?? env.OTEL_EXPORTER_OTLP_PROTOCOL ?? 'http/json';
  return protocol === 'http/json'
    ? ''
    : `${protocol} is not supported: http/json is sent to ${new URL(url).origin}`;
}

/** Log records in the JSON encoding of OTLP over HTTP (opentelemetry-proto, collector/logs/v1). */
export class OtlpSink implements Sink {
  readonly name = 'otlp';
  readonly kind = 'otlp';
  readonly everyMs = 1_000;
  readonly batch = 512;
  readonly #settings: OtlpSettings;

  constructor(settings: OtlpSettings) {
    this.#settings = settings;
  }

  get target(): string {
    return new URL(this.#settings.url).origin;
  }

  async send(events: readonly ServiceEvent[], signal: AbortSignal): Promise<Outcome> {
    const { url, headers, resource, timeoutMs } = this.#settings;
    const now = Date.now();
    const scope = { name: 'drawbridge', version: VERSION };
    const logRecords = events.map((event) => otlpRecord(event, now));
    const body = JSON.stringify({
      resourceLogs: [
        { resource: { attributes: otlpAttributes(resource) }, scopeLogs: [{ scope, logRecords }] },
      ],
    });
    const all = { 'content-type': 'application/json', 'user-agent': `drawbridge/${VERSION}`, ...headers };
    const result = await post({ url, headers: all, body, timeoutMs, signal });
    if (result.ok) return { taken: events.length, ...partial(result.answer ?? '') };
    const { detail: error, status, afterMs } = result;
    // The specification retries some statuses only; the others mean that this batch is never taken.
    const isRefused = status !== undefined && ![429, 502, 503, 504].includes(status);
    return { taken: isRefused ? events.length : 0, dropped: isRefused ? events.length : 0, error, afterMs };
  }

  async close(): Promise<void> {}
}

/** Records that the collector has refused although it took the request. */
function partial(answer: string): Pick<Outcome, 'dropped' | 'error'> {
  let body: unknown;
  try {
    body = JSON.parse(answer);
  } catch {
    return { dropped: 0 }; // an empty body means that all were taken
  }
  const { partialSuccess } = isRecord(body) ? body : {};
  const { rejectedLogRecords, errorMessage } = isRecord(partialSuccess) ? partialSuccess : {};
  const dropped = Number(rejectedLogRecords ?? 0);
  return dropped > 0
    ? { dropped, error: `the collector refused ${dropped}: ${String(errorMessage)}` }
    : { dropped: 0 };
}

export interface RecordsOptions {
  readonly config: Pick<Config, 'flows'>;
  readonly node: string;
  readonly events: EventLog;
  readonly log: Logger;
  readonly env: Env;
}

/** All outputs that record events. */
export class Records extends Deliveries {
  constructor(options: RecordsOptions) {
    const { events, log } = options;
    super(
      sinksOf(options).map((sink) => begin(sink, log)),
      events,
    );
  }

  warnings(): readonly string[] {
    return this.status()
      .filter(({ dropped }) => dropped > 0)
      .map(({ name, target, dropped, lastError }) => {
        const why = lastError ?? 'it was too slow';
        return `${name}: ${dropped} events were not recorded at ${target}: ${why}`;
      });
  }
}

function sinksOf({ config: { flows }, node, log, env }: RecordsOptions): readonly Sink[] {
  const encode = (event: ServiceEvent): object | undefined =>
    flows.format === 'ocsf' ? ocsfOf(node, event) : recordOf(node, event);
  const toSyslog = (event: ServiceEvent): string | undefined => {
    const body = encode(event);
    return body && syslogOf(node, event, body, process.pid);
  };
  const settings = otlpSettings(env, node);
  const fault = settings ? otlpFault(settings, env) : '';
  if (fault !== '')
    log.warn({ fault }, 'the variables of OpenTelemetry are set and cannot be followed as they are');
  const isUsable = settings && URL.canParse(settings.url) && /^https?:/.test(settings.url);
  return [
    ...(flows.file === '' ? [] : [new FileSink(flows.file, encode)]),
    ...(flows.syslog === '' ? [] : [new SyslogSink(flows.syslog, toSyslog)]),
    ...(isUsable ? [new OtlpSink(settings)] : []),
  ];
}
