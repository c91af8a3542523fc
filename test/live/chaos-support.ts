/** An attack that never ends, what others own in the kernel, and how both look while somebody breaks our part of it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import type { Lab } from '../lab/lab.js';
import { end, startDaemon, waitFor } from '../lab/process.js';

const here = (file: string): string => join(import.meta.dirname, file);
const numbers = Array.from({ length: 250 }, (_, i) => i + 1);
/** What attack.mjs sends to. */
const FORBIDDEN = [
  ...numbers.map((n) => `93.184.200.${n}`),
  ...numbers.map((n) => `2600:9000:bad::${n.toString(16)}`),
];
const PERMITTED = { v4: '93.184.1.1', v6: '2600:9000::1', name: 'ok.example.com' } as const;
const ALLOW = `${PERMITTED.name}, ${PERMITTED.v4}, [${PERMITTED.v6}]`;
const NETWORK = 'arena';
const GATEWAY = { v4: '172.30.0.1', v6: 'fd00:db:30::1' } as const;

export interface Arena extends AsyncDisposable {
  readonly lab: Lab;
  readonly attacker: Container;
  /** A neighbour of the attacker, observed, that counts what reaches it. */
  readonly neighbour: Container;
  /** Enforced, with permitted destinations; it holds a stream open from the start. */
  readonly worker: Container;
  /** What reached a service of the host. */
  hostCount(): number;
}

/** Networks that forward freely but for what we forbid, so that every hole shows. */
export async function openHost(lab: Lab): Promise<void> {
  for (const tool of ['iptables', 'ip6tables'])
    await lab.inHost([tool, '-P', 'FORWARD', 'ACCEPT'], { check: true });
  const subnets = ['--subnet', '172.30.0.0/24', '--ipv6', '--subnet', 'fd00:db:30::/64'];
  const gateways = ['--gateway', GATEWAY.v4, '--gateway', GATEWAY.v6];
  await lab.docker('network', 'create', ...subnets, ...gateways, NETWORK);
  await lab.dns.set({ [PERMITTED.name]: { A: ['93.184.1.2'], AAAA: ['2600:9000::2'] } });
}

/** The attack without Drawbridge: that what is asserted later could be otherwise. Kinds of packets that got out. */
export async function control(lab: Lab): Promise<string[]> {
  const c = await lab.start({ network: NETWORK, ...attack([]) });
  const seen = async (): Promise<string[]> => {
    const packets = await lab.sniffer.packets({ direction: 'out', dst: FORBIDDEN });
    return [...new Set(packets.map((p) => `${p.proto}/${p.family}`))].sort();
  };
  await waitFor('all kinds of attack', async () => (await seen()).length === 4);
  await c.remove();
  // What the internet repeats to a container that has gone the host would answer itself, by a RST to a forbidden address.
  await lab.inNet(['ss', '-Kt', 'state', 'connected'], { check: true });
  const kinds = await seen();
  await lab.sniffer.clear();
  return kinds;
}

const attack = (words: readonly string[]) => ({
  mounts: [`${here('attack.mjs')}:/attack.mjs:ro`],
  cmd: ['node', '/attack.mjs', ...words],
});

/** With `--restart=always`, so that the attack goes on after whatever ends it. */
export async function enterArena(lab: Lab): Promise<Arena> {
  const log = join(lab.dir, 'host-count.log');
  const listener = startDaemon(lab.view.inside([process.execPath, here('count.mjs')]), log, lab.view.env);
  const spec = (name: string, n: number) => ({
    name,
    network: NETWORK,
    args: ['--restart=always', '--ip', `172.30.0.${n}`, '--ip6', `fd00:db:30::${n}`],
  });
  const counting = { mounts: [`${here('count.mjs')}:/count.mjs:ro`], cmd: ['node', '/count.mjs'] };
  const neighbour = await lab.start({ ...spec('neighbour', 10), ...counting });
  const worker = await lab.start({
    ...spec('worker', 11),
    labels: { 'drawbridge.allow': ALLOW },
    cmd: ['node', '/probe.cjs', 'hold', PERMITTED.v4, '19'],
  });
  const labels = { 'drawbridge.allow': PERMITTED.name };
  const words = attack([GATEWAY.v4, GATEWAY.v6, '172.30.0.10', 'fd00:db:30::10']);
  const attacker = await lab.start({ ...spec('attacker', 12), labels, ...words });
  return {
    lab,
    attacker,
    neighbour,
    worker,
    hostCount: () => lastNumber(readFileSync(log, 'utf8')),
    [Symbol.asyncDispose]: () => end(listener, 2_000),
  };
}

const lastNumber = (text: string): number => Number(text.trim().split('\n').at(-1) ?? 0);

/** What the attack has reached since a cursor of the sniffer: what is in the internet, and in all: the host, the neighbour. */
export async function reached(arena: Arena, after: number) {
  const all = await arena.lab.sniffer.packets({ direction: 'out', dst: FORBIDDEN, after });
  // What the internet still sends to the control's container, which has gone, the host answers: destination unreachable.
  const packets = all.filter((p) => p.icmpType !== (p.family === 4 ? 3 : 1));
  return {
    leaked: packets.map(
      (p) => `${p.proto} ${p.src}:${p.sport} > ${p.dst}:${p.dport} ${p.flags ?? ''} at ${p.time}`,
    ),
    host: arena.hostCount(),
    neighbour: lastNumber(await arena.neighbour.logs()),
  };
}
export const NOTHING = { leaked: [], host: 0, neighbour: 0 } as const;

/** The attack goes on: its own count of packets grows. */
export async function isAttacking(arena: Arena): Promise<void> {
  const sent = async (): Promise<number> =>
    lastNumber((await arena.lab.dockerResult(['logs', '--tail', '1', 'attacker'])).stdout);
  const before = await sent();
  await waitFor('the attack to go on', async () => (await sent()) !== before);
}

/** New permitted connections by address and by name, both families. */
export async function permittedWork(arena: Arena): Promise<void> {
  const tries = [
    ['tcp', PERMITTED.v4, 443],
    ['tcp', PERMITTED.v6, 443],
    ['http', `http://${PERMITTED.name}/`],
  ] as const;
  for (const words of tries)
    expect(await arena.worker.probe(...words, '--timeout', 10_000), words.join(' ')).toMatchObject({
      ok: true,
    });
}

export async function kernelStatus(d: Drawbridge): Promise<{ inSync: boolean; lastRepair: string | null }> {
  return JSON.parse((await d.get('/v1/status')).body).kernel;
}

/** Bytes that the worker's one stream has brought so far; NaN before its first line. */
export async function streamed(arena: Arena): Promise<number> {
  const { stdout } = await arena.lab.dockerResult(['logs', '--tail', '1', 'worker']);
  return Number(/"bytes":(\d+)/.exec(stdout)?.[1] ?? Number.NaN);
}
