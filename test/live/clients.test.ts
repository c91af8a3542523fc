/** Real clients are not harmed by the check of names: each reaches its permitted site, and is refused at once for another one of its address. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { CLIENTS, type Client } from './client-kinds.js';
import {
  ADDRESS,
  BULK,
  CLIENT_ENV,
  ClientSites,
  EVIL,
  GOOD,
  machineMounts,
  OTHER,
  PERMITTED,
} from './client-sites.js';

let lab: Lab;
let drawbridge: Drawbridge;
let sites: ClientSites;
let checked: Container;
let free: Container;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  sites = await ClientSites.start(lab);
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const machine = (flags: string): Promise<Container> =>
    lab.start({
      node: false,
      labels: { 'drawbridge.allow': PERMITTED.map((name) => `${name}${flags}`).join(', ') },
      env: { ...CLIENT_ENV, PIN: sites.pin },
      mounts: machineMounts(lab),
      args: [EVIL, OTHER].flatMap((name) => ['--add-host', `${name}:${ADDRESS}`]).concat('--shm-size=256m'),
    });
  [checked, free] = await Promise.all([machine(''), machine(' tls=off')]);
  // an address is permitted once its name was resolved
  for (const c of [checked, free]) for (const name of PERMITTED) await c.exec(['getent', 'ahosts', name]);
}, 120_000);
afterAll(() => lab?.down());

/** Longer than any client needs to fail when it is reset, and shorter than any of their time-outs. */
const AT_ONCE_MS = 3_000;
interface Run {
  readonly code: number;
  readonly text: string;
  readonly ms: number;
}
async function runIn(c: Container, client: Client, site: string): Promise<Run> {
  const began = performance.now();
  const { code, stdout, stderr } = await c.exec(['timeout', '100', 'sh', '-c', client.script(site)], {
    timeoutMs: 110_000,
  });
  return { code, text: stdout + stderr, ms: performance.now() - began };
}
function expectReached(r: Run, client: Client, site: string): void {
  const wanted = client.prints(site);
  if (typeof wanted === 'string') expect(r.text).toContain(wanted);
  else expect(r.text).toMatch(wanted);
  expect(r.code, r.text).toBe(0);
}

for (const client of CLIENTS)
  describe(client.name, () => {
    it.skipIf(client.missing)(
      `reaches its site and no other of the address${client.missing ? `: ${client.missing}` : ''}`,
      async () => {
        const own = client.site ?? GOOD;
        const reached = await runIn(checked, client, own);
        expectReached(reached, client, own);
        const refused = await runIn(checked, client, EVIL);
        expect(refused.code, refused.text).not.toBe(0);
        expect(refused.text).not.toContain(`the content of ${EVIL}`);
        if (!client.isEndless) expect(refused.ms, refused.text).toBeLessThan(reached.ms + AT_ONCE_MS);
        // without the check, the same client reaches the other site
        if (client.site === undefined) expectReached(await runIn(free, client, OTHER), client, OTHER);
      },
    );
  });

describe('1 GiB', () => {
  const BYTES = 2 ** 30;
  const SHA256 = 'a110c53382d90198328a45c24dfc98a504911e2abf65c16d6c879ae958528cbd';
  const STREAM = `openssl enc -aes-128-ctr -K ${'0'.repeat(32)} -iv ${'0'.repeat(32)} -in /dev/zero 2>/dev/null | head -c ${BYTES}`;
  const own = `-H 'Content-Length: ${BYTES}' -H 'Transfer-Encoding:' -H 'Expect:'`;
  it.each(['http', 'https'])('down and up over %s', async (scheme) => {
    const down = `curl -sS --http1.1 '${scheme}://${BULK}/bytes?n=${BYTES}' | sha256sum`;
    const up = `${STREAM} | curl -sS --http1.1 -X POST ${own} -T - ${scheme}://${BULK}/up`;
    const queued = async (): Promise<number> =>
      JSON.parse((await drawbridge.get('/v1/status')).body).connections.queued;
    const before = await queued();
    for (const script of [down, up]) {
      const { code, stdout, stderr } = await checked.exec(['sh', '-c', script]);
      expect(code, stderr).toBe(0);
      expect(stdout).toContain(SHA256);
    }
    // packets have at most 64 KiB: most of both passed in the kernel
    expect((await queued()) - before).toBeLessThan(BYTES / 2 ** 16 / 4);
  });
});

it('no request for another site has arrived, and each was recorded with its name', async () => {
  const seen = sites.seen();
  expect(seen.filter((s) => s.host === EVIL)).toEqual([]);
  expect(seen.some((s) => s.host === OTHER)).toBe(true);
  const denials = await drawbridge.get('/v1/flows?verdict=deny&limit=200');
  const flows = (
    JSON.parse(denials.body) as {
      items: { name: string | null; proto: string; reason: string; container: string }[];
    }
  ).items;
  expect(flows.length).toBeGreaterThan(0);
  // browsers look up names of their makers; on a busy host a client sends more on a connection that has ended
  const connections = flows.filter((f) => f.proto !== 'dns' && !f.reason.includes('begins no connection'));
  expect(connections.length).toBeGreaterThan(0);
  for (const flow of connections) expect(flow).toMatchObject({ name: EVIL });
});
