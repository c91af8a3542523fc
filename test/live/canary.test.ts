/** The canary: what it finds while the rules work, and after another program has accepted before them. */
import { execa } from 'execa';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FAMILIES } from '../../src/api/metrics.js';
import { layoutMarks } from '../../src/ruleset/marks.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

interface CanaryStatus {
  readonly ok: boolean | null;
  readonly at: string | null;
  readonly detail: string;
}
interface Status {
  readonly containers: number;
  readonly canary: CanaryStatus;
  readonly kernel: { readonly lastRepair: string | null };
}

let lab: Lab;
let drawbridge: Drawbridge;
let held: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'six');
  drawbridge = lab.drawbridge({
    env: { DRAWBRIDGE_CANARY_EVERY: '400ms' },
    config: { canary: { ready: true } },
  });
  await drawbridge.ready();
  held = await lab.start({ name: 'held', network: 'six', labels: { 'drawbridge.mode': 'enforce' } });
});
afterAll(() => lab?.down());

const status = async (): Promise<Status> => JSON.parse((await drawbridge.get('/v1/status')).body) as Status;
const until = async (ok: boolean, detail = ''): Promise<Status> => {
  let last = await status();
  const isSo = async (): Promise<boolean> => {
    last = await status();
    return last.canary.ok === ok && last.canary.detail.includes(detail);
  };
  await waitFor(`the canary to be ${ok}`, isSo, 20_000).catch((e: Error) => {
    throw new Error(`${e.message}: ${last.canary.detail}\n${drawbridge.logs().slice(-3000)}`);
  });
  return last;
};

it('works through the rules of both families, and counts as no container', async () => {
  const { canary, containers, kernel } = await until(true);
  expect(canary.detail).toBe('permitted reached, forbidden not (IPv4 and IPv6, tcp and udp)');
  expect(canary.at).not.toBeNull();
  expect(containers).toBe(1);
  expect(kernel.lastRepair).toBeNull();
  expect(JSON.parse((await drawbridge.get('/v1/flows')).body)).toMatchObject({ items: [] });
  expect(JSON.parse((await drawbridge.get('/v1/containers')).body)).toMatchObject({
    items: [{ name: 'held' }],
  });
  expect((await drawbridge.get('/readyz')).status).toBe(200);
});

/** A rule of another program that sets a bit of `kernel.markMask`. The service neither sees it nor can repair it. */
const FOREIGN = ['FORWARD', '-j', 'MARK', '--or-mark', String(layoutMarks(0x7f003fff).evaluated)];
const reaches = async (): Promise<boolean> =>
  (await held.probe('tcp', '93.184.84.1', 80, '--timeout', 2_000)).ok;

it('fails while packets pass the rules, and the probes for load balancers say so', async () => {
  expect(await reaches()).toBe(false);
  for (const tool of ['iptables', 'ip6tables'])
    await lab.inHost([tool, '-w', '-t', 'mangle', '-I', ...FOREIGN], { check: true });
  // a run that began between the two rules, or on a busy host, does not reach all four
  await until(false, 'a forbidden address was reached (IPv4 tcp, IPv4 udp, IPv6 tcp, IPv6 udp)');
  expect(await reaches()).toBe(true);
  expect(await scraped()).toContain('drawbridge_canary_ok 0\n');
  const ready = await drawbridge.get('/readyz');
  expect([ready.status, ready.body]).toEqual([
    503,
    expect.stringContaining('a forbidden address was reached'),
  ]);
  const shown = await drawbridge.cli(['status']);
  expect(shown.stdout).toContain('canary: FAILED: a forbidden address was reached');
  for (const tool of ['iptables', 'ip6tables'])
    await lab.inHost([tool, '-w', '-t', 'mangle', '-D', ...FOREIGN], { check: true });
  await until(true);
  expect(await reaches()).toBe(false);
  expect((await drawbridge.get('/readyz')).status).toBe(200);
});

/** Prometheus' own check of the text that a scrape returns. */
async function scraped(): Promise<string> {
  const { status: code, body } = await drawbridge.get('/metrics');
  expect(code).toBe(200);
  const checked = await execa('promtool', ['check', 'metrics'], { input: body, reject: false, all: true });
  expect([checked.exitCode, checked.all]).toEqual([0, '']);
  return body;
}

it('shows in metrics that promtool finds no fault with, as real numbers', async () => {
  await until(true);
  const body = await scraped();
  const names = [...body.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
  expect(names).toEqual(FAMILIES.map(({ name }) => name));
  for (const line of [
    'drawbridge_canary_ok 1',
    'drawbridge_kernel_in_sync 1',
    'drawbridge_ready 1',
    'drawbridge_containers{mode="enforce",coverage="enforced"} 1',
    'drawbridge_store_up 1',
    'drawbridge_queue_dropped_total{queue="hold"} 0',
  ])
    expect(body).toContain(`${line}\n`);
  expect(body).toMatch(/^drawbridge_denials_total\{reason="address"\} [1-9]/m);
  expect(body).toMatch(/^drawbridge_flows_total\{verdict="deny"\} [1-9]/m);
  await held.probe('dns', '9.9.9.9', 'away.example.com', 'A');
  const after = await scraped();
  expect(after).toMatch(/^drawbridge_dns_queries_total\{verdict="deny"\} [1-9]/m);
  expect(after).toMatch(/^drawbridge_dns_duration_seconds_count [1-9]/m);
  expect(after).toMatch(/^drawbridge_denials_total\{reason="name"\} [1-9]/m);
  expect(after).toMatch(/^drawbridge_api_requests_total\{status="2xx"\} [1-9]/m);
});

it('makes its namespaces again when another program takes its routes or its links', async () => {
  const links = async (): Promise<string> => (await lab.inHost(['ip', '-o', 'link'], { check: true })).stdout;
  const before = /(\d+): DB-canary@/.exec(await links())?.[1];
  await lab.inHost(['ip', 'link', 'delete', 'DB-canary'], { check: true });
  await waitFor('another link', async () => {
    const now = /(\d+): DB-canary@/.exec(await links())?.[1];
    return now !== undefined && now !== before;
  });
  await until(true);
  await lab.inHost(['ip', 'route', 'flush', 'table', 'main', 'proto', '219'], { check: true });
  const { at } = (await until(true)).canary;
  await waitFor('a later run', async () => (await status()).canary.at !== at);
  await until(true);
});

it('leaves nothing after the service has been killed and started again, and after a teardown', async () => {
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  drawbridge.start();
  await drawbridge.ready();
  await until(true);
  await drawbridge.cli(['teardown']);
  await drawbridge.exited();
  const links = await lab.inHost(['ip', '-o', 'link'], { check: true });
  expect(links.stdout).not.toMatch(/DB-(canary|target)/);
  for (const family of ['-4', '-6']) {
    const routes = await lab.inHost(['ip', family, 'route', 'show', 'table', 'all', 'proto', '219'], {
      check: true,
    });
    expect(routes.stdout).not.toMatch(/198\.1[89]\.|fd64:7262/);
  }
});
