/** What /metrics exports, and that the page, the rules and the dashboard speak of nothing else. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { FAMILIES, Metrics, type MetricsParts } from '../../../src/api/metrics.js';
import { EventLog } from '../../../src/events/event-log.js';
import { DENIAL_REASONS } from '../../../src/flows/denials.js';
import { Signal } from '../../../src/lib/current.js';
import { Histogram } from '../../../src/lib/histogram.js';
import { MemoryService } from './double.js';

const DOCS = join(import.meta.dirname, '../../../docs');
const text = (file: string): string => readFileSync(join(DOCS, file), 'utf8');
const ALERTS = text('monitoring/alerts.yml');

function parts() {
  const hold = {
    counts: { held: 3, repeated: 2, dropped: 1, expired: 0 },
    durations: new Histogram([0.1]),
    queueFull: 4,
  };
  const counts = {
    queued: 0,
    released: 0,
    refused: 5,
    dropped: 0,
    beyondBounds: 6,
    faults: 0,
    waiting: 0,
    queueFull: 7,
  };
  const totals = Object.fromEntries(
    DENIAL_REASONS.map((r, n) => [r, n]),
  ) as MetricsParts['denials']['totals'];
  const header = { type: 'hash:ip', family: 4 as const, references: 1 };
  return {
    prefix: 'DB',
    events: new EventLog(),
    nameEvents: new Signal(),
    denials: { totals },
    hold,
    checks: { counts, durations: new Histogram([0.001]) },
    dns: { durations: new Histogram([0.001, 0.01]) },
    tallies: { totals: { allow: 0, deny: 1, 'would-deny': 3, threat: 0 } },
    flows: { facts: async () => ({ dropped: 1 }) },
    asksPending: () => 2,
    kernel: {
      sets: {
        headers: async () => [
          { ...header, name: 'DB-abc-1l', entries: 30, maxEntries: 40 },
          { ...header, name: 'DB-threat-ip4', entries: 99, maxEntries: 100 },
          { ...header, name: 'other', entries: 100, maxEntries: 100 },
        ],
      },
    },
  } satisfies MetricsParts;
}

function service(ok: boolean | null = true) {
  const memory = new MemoryService();
  const { context } = memory;
  const store = { health: () => ({ ok: false, detail: 'disk full' }) };
  const canary = { result: { ok, at: ok === null ? null : 1_500, detail: '' } };
  return { ...context, store, canary } as unknown as Parameters<Metrics['text']>[0];
}

describe('the text', () => {
  it('has every family, with what the parts have counted', async () => {
    const all = parts();
    const metrics = new Metrics(all);
    all.events.emit('repair', { detail: '' });
    all.nameEvents.emit({ container: 'a', name: 'b.c', type: 'A', verdict: 'threat', reason: '' });
    for (const ms of [0.5, 2, 2, 500]) all.dns.durations.observeMs(ms);
    for (const status of [200, 204, 404, 101]) metrics.answered(status);
    const { body, type } = await metrics.text(service());
    expect(type).toBe('text/plain; version=0.0.4; charset=utf-8');
    const names = [...body.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    expect(names).toEqual(FAMILIES.map(({ name }) => name));
    for (const line of [
      'drawbridge_flows_total{verdict="deny"} 1',
      'drawbridge_flows_total{verdict="would-deny"} 3',
      'drawbridge_flows_total{verdict="allow"} 0',
      'drawbridge_repairs_total 1',
      'drawbridge_dns_queries_total{verdict="threat"} 1',
      'drawbridge_denials_total{reason="name"} 0',
      'drawbridge_denials_total{reason="limit"} 7',
      'drawbridge_dns_duration_seconds_bucket{le="0.001"} 1',
      'drawbridge_dns_duration_seconds_bucket{le="0.01"} 3',
      'drawbridge_dns_duration_seconds_bucket{le="+Inf"} 4',
      'drawbridge_dns_duration_seconds_sum 0.5045',
      'drawbridge_dns_duration_seconds_count 4',
      'drawbridge_queue_dropped_total{queue="hold"} 4',
      'drawbridge_queue_dropped_total{queue="names"} 7',
      'drawbridge_check_dropped_total{cause="bounds"} 6',
      'drawbridge_connections_refused_total 5',
      'drawbridge_held_packets_total{outcome="repeated"} 2',
      'drawbridge_kernel_in_sync 1',
      'drawbridge_ready 1',
      'drawbridge_canary_ok 1',
      'drawbridge_canary_last_run_timestamp_seconds 1.5',
      'drawbridge_asks_pending 2',
      'drawbridge_records_dropped_total 1',
      'drawbridge_set_fill_ratio 0.75',
      'drawbridge_store_up 0',
      'drawbridge_event_readers 1',
      'drawbridge_containers{mode="observe",coverage="enforced"} 1',
      'drawbridge_containers{mode="enforce",coverage="unenforced"} 0',
      'drawbridge_api_requests_total{status="2xx"} 2',
      'drawbridge_api_requests_total{status="4xx"} 1',
    ])
      expect(body).toContain(`${line}\n`);
    const checked = await execa('promtool', ['check', 'metrics'], { input: body, all: true });
    expect(checked.all).toBe('');
  });

  it('is byte for byte the one that Prometheus clients have read so far', async () => {
    const all = parts();
    const metrics = new Metrics(all);
    all.events.emit('repair', { detail: '' });
    all.nameEvents.emit({ container: 'a', name: 'b.c', type: 'A', verdict: 'threat', reason: '' });
    for (const ms of [0.5, 2, 2, 500]) all.dns.durations.observeMs(ms);
    for (const status of [200, 204, 404, 101]) metrics.answered(status);
    const feed = { entries: 3, names: 4 };
    const feeds = {
      views: () => [
        { ...feed, name: 'a "quoted" \\ back\nslash', confirmed: '2999-01-01T00:00:00.000Z' },
        { ...feed, name: 'big', entries: 1e21, names: 0, confirmed: null, loaded: null },
      ],
    };
    const { body } = await metrics.text({ ...service(null), feeds } as never);
    const steady = body
      .replace(/^((?:process|nodejs)_\S+) .*$/gm, '$1 N')
      .replace(/^(drawbridge_build_info)\{version="[^"]+",node_version="[^"]+"\}/m, '$1{}');
    await expect(steady).toMatchFileSnapshot(join(import.meta.dirname, '../../fixtures/metrics.txt'));
  });

  it('is not ok about a canary that could not run', async () => {
    const { body } = await new Metrics(parts()).text(service(null));
    expect(body).toContain('drawbridge_canary_ok Nan\n');
    expect(body).not.toMatch(/^drawbridge_canary_last_run/m);
    expect((await new Metrics(parts()).text(service(false))).body).toContain('drawbridge_canary_ok 0\n');
  });

  it('has few values in its labels, and none of a container', async () => {
    const { body } = await new Metrics(parts()).text(service());
    const series = body.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(series.length).toBeLessThan(120);
    expect(series.filter((line) => /web|npm|github|140\.82/.test(line))).toEqual([]);
  });
});

const known = FAMILIES.flatMap(({ name, type }) =>
  type === 'histogram' ? ['_bucket', '_sum', '_count'].map((end) => `${name}${end}`) : [name],
);
const used = (of: string): string[] => [
  ...new Set(of.match(/\b(?:drawbridge|process|nodejs)_[a-z0-9_]+(?=[{[ )]|$)/gm) ?? []),
];

describe('what is published', () => {
  it('has rules and panels of metrics that exist', () => {
    const dashboard = JSON.parse(text('monitoring/dashboard.json')) as {
      readonly panels: readonly {
        readonly id: number;
        readonly targets: readonly { readonly expr: string }[];
      }[];
    };
    const expressions = dashboard.panels.flatMap((p) => p.targets.map((t) => t.expr));
    const inRules = [...ALERTS.matchAll(/expr: (>-\n(?: {10}.*\n)+|.*)/g)].map(([, e]) => e ?? '');
    expect(inRules.length).toBe([...ALERTS.matchAll(/- alert:/g)].length);
    const all = [...expressions, ...inRules].flatMap(used);
    expect(all.length).toBeGreaterThan(30);
    expect(all.filter((name) => !known.includes(name))).toEqual([]);
    expect(new Set(dashboard.panels.map((p) => p.id)).size).toBe(dashboard.panels.length);
  });

  it('has rules that promtool finds right, and tests in which each of them fires', async () => {
    const folder = join(DOCS, 'monitoring');
    for (const args of [
      ['check', 'rules', 'alerts.yml'],
      ['test', 'rules', 'alerts.test.yml'],
    ]) {
      const done = await execa('promtool', args, { cwd: folder, reject: false, all: true });
      expect([done.exitCode, done.all]).toEqual([0, expect.stringContaining('SUCCESS')]);
    }
    const names = [...ALERTS.matchAll(/- alert: (\w+)/g)].map(([, name]) => name ?? '');
    const tests = text('monitoring/alerts.test.yml');
    for (const name of names) {
      expect(tests).toMatch(new RegExp(`alertname: ${name}\\n +exp_alerts:`));
      expect(tests).toContain(`alertname: ${name} }`);
      expect(text('monitoring.md')).toContain(`\`${name}\``);
    }
  });

  it('has the table of the metrics on its page', () => {
    const rows = FAMILIES.map(
      ({ name, type, labels, help }) => `| \`${name}\` | ${type} | ${labels.join(', ')} | ${help} |`,
    );
    const table = ['| metric | type | labels | |', '| --- | --- | --- | --- |', ...rows].join('\n');
    const [, shown] =
      /<!-- metrics:.*-->\n([\s\S]*)\n<!-- end of metrics -->/.exec(text('monitoring.md')) ?? [];
    expect(shown).toBe(table);
  });
});
