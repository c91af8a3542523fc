/** GET /metrics, for Prometheus. Labels have few values: none is the name of a destination or of a container. */
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import type { FastifyInstance } from 'fastify';
import type { ConnectionChecks } from '../connections/connection-checks.js';
import type { DnsService } from '../dns/dns-service.js';
import type { NameEvent } from '../dns/names-policy.js';
import type { PacketHold } from '../enforce/packet-hold.js';
import type { EventLog } from '../events/event-log.js';
import { DENIAL_REASONS, type Denials } from '../flows/denials.js';
import type { Tallies } from '../flows/tallies.js';
import type { SetStore } from '../kernel/set-store.js';
import type { Signal } from '../lib/current.js';
import type { Histogram } from '../lib/histogram.js';
import { VERSION } from '../lib/version.js';
import { ageOf } from '../threats/feed-view.js';
import type { Context } from './context.js';

export interface MetricsParts {
  readonly prefix: string;
  readonly events: EventLog;
  readonly nameEvents: Signal<NameEvent>;
  readonly denials: Pick<Denials, 'totals'>;
  readonly hold: Pick<PacketHold, 'counts' | 'durations' | 'queueFull'>;
  readonly checks: Pick<ConnectionChecks, 'counts' | 'durations'>;
  readonly dns: Pick<DnsService, 'durations'>;
  readonly tallies: Pick<Tallies, 'totals'>;
  readonly kernel: { readonly sets: Pick<SetStore, 'headers'> };
  /** Requests that wait for the decision of a person. Undefined: nothing asks. */
  readonly asksPending?: () => number;
  readonly flows: { facts(): Promise<{ readonly dropped: number }> };
}
type Labels = Readonly<Record<string, string>>;
interface Sample {
  readonly labels?: Labels;
  readonly value: number;
  /** Of histograms: the name with its suffix. */
  readonly metricName?: string;
}
/** What the metrics are read from at one moment. */
interface Reading {
  readonly parts: MetricsParts;
  readonly service: Pick<Context, 'views' | 'reconciler' | 'feeds' | 'changes' | 'store' | 'canary' | 'node'>;
  readonly counted: Counted;
  readonly fill: number;
  readonly dropped: number;
  readonly loop: IntervalHistogram;
}
/** A metric, as docs/monitoring.md shows it. */
export interface Family {
  readonly name: string;
  readonly type: 'gauge' | 'counter' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  readonly read: (at: Reading) => number | readonly Sample[];
}

const QUERY_VERDICTS: readonly NameEvent['verdict'][] = ['allow', 'deny', 'would-deny', 'threat', 'error'];
const MODES = ['enforce', 'observe', 'off'] as const;
const COVERAGES = ['enforced', 'partial', 'unenforced'] as const;
const STATUS_CLASSES = ['2xx', '3xx', '4xx', '5xx'] as const;

/** What is counted from events, since the start. */
class Counted {
  readonly queries = zeros(QUERY_VERDICTS);
  readonly requests = zeros(STATUS_CLASSES);
  repairs = 0;
}
function zeros<K extends string>(keys: readonly K[]): Record<K, number> {
  return Object.fromEntries(keys.map((key) => [key, 0])) as Record<K, number>;
}

const byLabel = (label: string, counts: Readonly<Record<string, number>>): readonly Sample[] =>
  Object.entries(counts).map(([key, value]) => ({ labels: { [label]: key }, value }));

function bucketsOf(name: string, { bounds, counts, sum }: Histogram): readonly Sample[] {
  let total = 0;
  const buckets = Array.from(counts, (count, n) => {
    total += count;
    const le = n < bounds.length ? String(bounds[n]) : '+Inf';
    return { metricName: `${name}_bucket`, labels: { le }, value: total };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, value: sum },
    { metricName: `${name}_count`, value: total },
  ];
}
const family =
  (type: 'gauge' | 'counter') =>
  (name: string, help: string, read: Family['read'], labels: readonly string[] = []): Family => ({
    name,
    type,
    help,
    labels,
    read,
  });
const [gauge, counter] = [family('gauge'), family('counter')];
const histogram = (name: string, help: string, of: (parts: MetricsParts) => Histogram): Family => ({
  name,
  type: 'histogram',
  help,
  labels: ['le'],
  read: ({ parts }) => bucketsOf(name, of(parts)),
});

function containers({ service }: Reading): readonly Sample[] {
  const all = service.views.containers();
  return MODES.flatMap((mode) =>
    COVERAGES.map((coverage) => ({
      labels: { mode, coverage },
      value: all.filter((c) => c.mode === mode && c.coverage.state === coverage).length,
    })),
  );
}

/** Seconds since a feed was last known to be current, +Inf if a clock was wrong; a feed that never was is left out. */
const ages = ({ service }: Reading): readonly Sample[] =>
  service.feeds.views().flatMap((feed) => {
    const age = ageOf(feed, Date.now());
    return age === undefined ? [] : [{ labels: { feed: feed.name }, value: age / 1_000 }];
  });

const oneOrZero = (is: boolean): number => (is ? 1 : 0);
const canaryValue = ({ service: { canary } }: Reading): number => {
  const { ok } = canary.result;
  return ok === null ? Number.NaN : oneOrZero(ok);
};
const NANOSECONDS = 1e9;

export const FAMILIES: readonly Family[] = [
  gauge(
    'drawbridge_build_info',
    'Always 1. Labels have the version of Drawbridge and of Node.',
    () => [{ labels: { version: VERSION, node_version: process.version }, value: 1 }],
    ['version', 'node_version'],
  ),
  gauge(
    'drawbridge_containers',
    'Containers that run, by mode and by what holds of the promises for them.',
    containers,
    ['mode', 'coverage'],
  ),
  counter(
    'drawbridge_flows_total',
    'Connections that passed (allow, would-deny), and attempts and names that did not (deny, threat).',
    ({ parts }) => byLabel('verdict', parts.tallies.totals),
    ['verdict'],
  ),
  counter(
    'drawbridge_denials_total',
    `Denials, by what denied: ${DENIAL_REASONS.join(', ')}. Packets count as far as the kernel has logged them.`,
    ({ parts }) => byLabel('reason', parts.denials.totals),
    ['reason'],
  ),
  counter(
    'drawbridge_dns_queries_total',
    'Verdicts about queries of containers for names.',
    ({ counted }) => byLabel('verdict', counted.queries),
    ['verdict'],
  ),
  histogram(
    'drawbridge_dns_duration_seconds',
    'From the arrival of a query to its reply.',
    ({ dns }) => dns.durations,
  ),
  histogram(
    'drawbridge_hold_duration_seconds',
    'From the first packet of an unknown veth or process to its verdict.',
    ({ hold }) => hold.durations,
  ),
  histogram(
    'drawbridge_sni_duration_seconds',
    'From the first packet of a connection that is checked by name to its verdict.',
    ({ checks }) => checks.durations,
  ),
  counter(
    'drawbridge_connections_refused_total',
    'Connections that the check of names has refused.',
    ({ parts }) => parts.checks.counts?.refused ?? 0,
  ),
  counter(
    'drawbridge_queue_dropped_total',
    'Packets that were dropped because a queue of the kernel was full: hold (unknown senders), names (checks).',
    ({ parts: { hold, checks } }) =>
      byLabel('queue', { hold: hold.queueFull, names: checks.counts?.queueFull ?? 0 }),
    ['queue'],
  ),
  counter(
    'drawbridge_check_dropped_total',
    'Packets of checked connections that were dropped beyond the bounds, or because of a fault of the program.',
    ({ parts: { checks } }) =>
      byLabel('cause', { bounds: checks.counts?.beyondBounds ?? 0, fault: checks.counts?.faults ?? 0 }),
    ['cause'],
  ),
  counter(
    'drawbridge_held_packets_total',
    'Packets of unknown senders, by what became of them; expired ones count as dropped, too.',
    ({ parts: { hold } }) => {
      const { repeated, dropped, expired } = hold.counts;
      return byLabel('outcome', { repeated, dropped, expired });
    },
    ['outcome'],
  ),
  gauge('drawbridge_kernel_in_sync', '1: the kernel has the rules that it should have.', ({ service }) =>
    oneOrZero(service.views.status().kernel.inSync),
  ),
  gauge('drawbridge_ready', '1: /readyz answers 200.', ({ service }) =>
    oneOrZero(service.views.ready().ready),
  ),
  counter(
    'drawbridge_repairs_total',
    'Rules, sets or records of Drawbridge were missing or changed, and were written again.',
    ({ counted }) => counted.repairs,
  ),
  gauge(
    'drawbridge_canary_ok',
    '1: the canary has reached the permitted address only. 0: it has not. NaN: it could not run.',
    canaryValue,
  ),
  gauge(
    'drawbridge_canary_last_run_timestamp_seconds',
    'When the canary last ended, as seconds since 1970; absent before.',
    ({ service: { canary } }) => {
      const { at } = canary.result;
      return at === null ? [] : [{ value: at / 1_000 }];
    },
  ),
  gauge(
    'drawbridge_feed_entries',
    'Addresses, networks and names of the version of a feed that is in force.',
    ({ service }) =>
      service.feeds
        .views()
        .map(({ name, entries, names }) => ({ labels: { feed: name }, value: entries + names })),
    ['feed'],
  ),
  gauge(
    'drawbridge_feed_age_seconds',
    'Since the version of a feed was last known to be the current one; `+Inf` if a clock was wrong; absent for a feed that never was loaded.',
    ages,
    ['feed'],
  ),
  gauge(
    'drawbridge_asks_pending',
    'Connections that wait for the decision of a person.',
    ({ parts }) => parts.asksPending?.() ?? 0,
  ),
  counter(
    'drawbridge_records_dropped_total',
    'Connections and refused packets that are in no record, as `dropped` of flows: too many at once, or a disk that was full.',
    ({ dropped }) => dropped,
  ),
  gauge(
    'drawbridge_set_fill_ratio',
    'Members of the fullest set of addresses, as a part of the most that it can have. It is read once a minute.',
    ({ fill }) => fill,
  ),
  gauge('drawbridge_grants', 'Grants in force for containers that run.', ({ service }) =>
    service.views.containers().reduce((sum, c) => sum + c.grants.length, 0),
  ),
  gauge('drawbridge_store_up', '1: the store takes changes.', ({ service }) =>
    oneOrZero(service.store.health().ok),
  ),
  gauge(
    'drawbridge_store_unwritten_changes',
    'Changes in force that could not be stored.',
    ({ service }) => service.changes.unwritten.list().length,
  ),
  gauge(
    'drawbridge_event_readers',
    'Subscriptions to events: streams of the API, and parts of the service.',
    ({ parts }) => parts.events.readers,
  ),
  counter(
    'drawbridge_api_requests_total',
    'Requests to routes of the API, by class of status.',
    ({ counted }) => byLabel('status', counted.requests),
    ['status'],
  ),
  counter(
    'process_cpu_seconds_total',
    'Processor time of the service, without the tools that it starts.',
    () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1e6;
    },
  ),
  gauge('process_resident_memory_bytes', 'Resident memory of the service.', () => process.memoryUsage.rss()),
  gauge(
    'process_start_time_seconds',
    'When the process started, as seconds since 1970.',
    () => performance.timeOrigin / 1_000,
  ),
  gauge(
    'nodejs_eventloop_lag_p99_seconds',
    '99th percentile of the delay of the event loop since the last scrape.',
    ({ loop }) => loop.percentile(99) / NANOSECONDS,
  ),
  gauge(
    'nodejs_eventloop_lag_max_seconds',
    'Longest delay of the event loop since the last scrape.',
    ({ loop }) => (loop.count === 0 ? 0 : loop.max / NANOSECONDS),
  ),
];

/** Lines of the text format, https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). */
function familyText({ name, help, type, read }: Family, at: Reading): string {
  const found = read(at);
  const samples: readonly Sample[] = typeof found === 'number' ? [{ value: found }] : found;
  const lines = samples.map(({ metricName = name, labels = {}, value }) => {
    const pairs = Object.entries(labels).map(
      ([key, text]) => `${key}="${escaped(text).replaceAll('"', '\\"')}"`,
    );
    return `${metricName}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${SPECIAL[value] ?? value}`;
  });
  return [`# HELP ${name} ${escaped(help)}`, `# TYPE ${name} ${type}`, ...lines].join('\n');
}
const escaped = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
const SPECIAL: Readonly<Record<string, string>> = { NaN: 'Nan', Infinity: '+Inf', '-Infinity': '-Inf' };

/** Sets that feeds fill have a bound of their own (threats.maxEntries), and are created for what they contain. */
const OF_THREATS = /-(threat|watch)-/;
const FILL_MS = 60_000;
const LOOP_MS = 20;

/** Counts from events from its construction on; what else is exported is read at a scrape. */
export class Metrics {
  readonly #parts: MetricsParts;
  readonly #counted = new Counted();
  #loop: IntervalHistogram | undefined;
  #fill = { value: 0, at: Number.NEGATIVE_INFINITY };

  constructor(parts: MetricsParts) {
    this.#parts = parts;
    const { queries } = this.#counted;
    parts.nameEvents.subscribe(({ verdict }) => void queries[verdict]++);
    parts.events.subscribe(({ kind }) => {
      if (kind === 'repair') this.#counted.repairs++;
    });
  }

  answered(status: number): void {
    const of = STATUS_CLASSES.find((name) => name.startsWith(String(Math.floor(status / 100))));
    if (of) this.#counted.requests[of]++;
  }

  /** The text format of Prometheus, version 0.0.4. */
  async text(service: Reading['service']): Promise<{ readonly type: string; readonly body: string }> {
    this.#loop ??= startedMonitor();
    const loop = this.#loop;
    const parts = this.#parts;
    // a database that does not answer must not hide the other metrics
    const dropped = await parts.flows
      .facts()
      .then((f) => f.dropped)
      .catch(() => Number.NaN);
    const at = { parts, service, counted: this.#counted, fill: await this.#readFill(), dropped, loop };
    const texts = FAMILIES.map((one) => familyText(one, at));
    loop.reset();
    return { type: 'text/plain; version=0.0.4; charset=utf-8', body: `${texts.join('\n\n')}\n` };
  }

  /** The kernel counts the members of each set for a listing: with large sets that takes milliseconds. */
  async #readFill(): Promise<number> {
    const now = performance.now();
    if (now - this.#fill.at < FILL_MS) return this.#fill.value;
    const { kernel, prefix } = this.#parts;
    const headers = await kernel.sets.headers();
    const ratios = headers
      .filter(({ name }) => name.startsWith(`${prefix}-`) && !OF_THREATS.test(name))
      .map(({ entries, maxEntries }) => (maxEntries ? entries / maxEntries : 0));
    this.#fill = { value: Math.max(0, ...ratios), at: now };
    return this.#fill.value;
  }
}

function startedMonitor(): IntervalHistogram {
  const loop = monitorEventLoopDelay({ resolution: LOOP_MS });
  loop.enable();
  return loop;
}

const schema = {
  summary: 'Metrics for Prometheus: docs/monitoring.md has their table',
  response: {
    200: {
      description: 'the text format of Prometheus, version 0.0.4',
      content: { 'text/plain': { schema: { type: 'string' } } },
    },
  },
} as const;

export function metricsRoutes(server: FastifyInstance, ctx: Context): void {
  server.addHook('onResponse', async (_request, reply) => ctx.metrics.answered(reply.statusCode));
  server.get('/metrics', { schema, config: { cost: 5 } }, async (_request, reply) => {
    const { type, body } = await ctx.metrics.text(ctx);
    return reply.type(type).serializer(String).send(body);
  });
}
