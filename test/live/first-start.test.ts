/** What is open when the service starts on a host that had no rules: what goes on, and what ends at both sides. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { startDaemon, waitFor } from '../lab/process.js';

interface Open {
  readonly opened: number;
  readonly bytes: number;
  readonly last: number;
  readonly gap: number;
  readonly end: string | null;
  readonly port?: number;
}
let lab: Lab;
let drawbridge: Drawbridge;
const WORK = `${join(import.meta.dirname, 'open-work.mjs')}:/work.mjs:ro`;
const containers = new Map<string, Container>();

async function begin(name: string, words: readonly string[], spec: object = {}): Promise<Container> {
  const c = await lab.start({
    name,
    network: 'app',
    mounts: [WORK],
    cmd: ['node', '/work.mjs', ...words],
    ...spec,
  });
  containers.set(name, c);
  return c;
}
async function workOf(name: string): Promise<Record<string, any>> {
  const lines = (await containers.get(name)!.logs()).trim().split('\n');
  return JSON.parse(lines.findLast((l) => l.startsWith('{"at"') && l.endsWith('}')) ?? '{"work":{}}').work;
}

beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', 'app');
  await lab.dns.set({
    'seen.test': { A: ['93.184.1.1'] },
    'stream.test': { A: ['93.184.3.1'] },
    'web.test': { A: ['93.184.3.2'] },
  });
  await begin('db', ['serve=7000', 'stream=93.184.1.9:19'], { args: ['-p', '7001:7000'] });
  const { ip4 } = await containers.get('db')!.addresses('app');
  await begin('observed', [
    'stream=93.184.1.1:19',
    'echo=93.184.1.1:7777',
    'new=93.184.1.2:80',
    'dns=seen.test',
    `stream=${ip4}:7000`,
  ]);
  await begin('default', ['stream=93.184.1.3:19', 'new=93.184.1.4:80', 'dns=seen.test'], {
    network: 'bridge',
  });
  await begin('off', ['stream=93.184.1.5:19', 'new=93.184.1.6:80', 'dns=seen.test'], {
    labels: { 'drawbridge.mode': 'off' },
  });
  await begin('host', ['stream=93.184.1.7:19', 'new=93.184.1.8:80', 'dns=seen.test'], { network: 'host' });
  await begin('address', ['stream=93.184.2.1:19', 'echo=93.184.2.1:7777', 'new=93.184.2.1:80'], {
    labels: { 'drawbridge.allow': '93.184.2.1' },
  });
  await begin('name', ['stream=93.184.3.1:19', 'http=93.184.3.2:80', 'dns=stream.test'], {
    labels: { 'drawbridge.allow': 'stream.test:19, web.test' },
  });
  await begin(
    'denied',
    ['stream=93.184.4.1:19', 'echo=93.184.4.1:7777', 'quiet=93.184.4.2:9999', 'new=93.184.4.3:80'],
    { labels: { 'drawbridge.allow': '93.184.2.9' } },
  );
}, 120_000);
afterAll(() => lab?.down());

it('first', async () => {
  const show = async (what: string) => {
    for (const name of containers.keys()) console.log(what, name, JSON.stringify(await workOf(name)));
  };
  await new Promise((r) => setTimeout(r, 4000));
  await show('before');
  const began = Date.now();
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
  console.log('ready after', Date.now() - began);
  await new Promise((r) => setTimeout(r, 6000));
  await show('after');
  const rst = await lab.sniffer.packets({ flags: 'R' } as never);
  console.log(
    rst
      .map((p) => `${p.time - began} ${p.direction} ${p.src}:${p.sport} > ${p.dst}:${p.dport} ${p.flags}`)
      .join('\n'),
  );
  console.log((await lab.inNet(['ss', '-tno'])).stdout);
  console.log(drawbridge.logs());
  console.log((await drawbridge.cli(['flows'])).stdout);
  await drawbridge.cli(['teardown']);
  await drawbridge.exited();
  await new Promise((r) => setTimeout(r, 2000));
  await show('after teardown');
}, 120_000);
