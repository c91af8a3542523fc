/** Attackers that send whatever bytes they like: from their own packet socket, with no more power than Docker gives. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import { waitFor } from '../lab/process.js';
import type { Family } from './report.js';
import { type Attempt, type How, seen } from './technique.js';
import { type Bytes, type Ends, ether, etherTypeOf } from './wire.js';

const MODULES = join(import.meta.dirname, '..', '..', 'node_modules');
const ASKS = mkdtempSync(join(tmpdir(), 'drawbridge-raw-'));
afterAll(() => rmSync(ASKS, { recursive: true, force: true }));

/** A spec whose container runs programs/raw.mjs: `sendFrames` asks it. */
export const raw = (spec: RunSpec = {}): RunSpec => ({
  ...spec,
  mounts: [
    ...(spec.mounts ?? []),
    `${join(MODULES, 'koffi')}:/node_modules/koffi:ro`,
    `${join(MODULES, '@koromix')}:/node_modules/@koromix:ro`,
    `${ASKS}:/asks`,
  ],
  cmd: ['node', '/attacks/raw.mjs'],
});

function ask(container: Container, question: unknown): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(join(ASKS, `${container.id.slice(0, 12)}.sock`), () =>
      socket.write(`${JSON.stringify(question)}\n`),
    );
    socket.on('error', reject);
    socket.on('data', (d) => {
      text += d.toString();
    });
    socket.on('end', () => resolve(text));
  });
}
const listens = (container: Container): Promise<string> =>
  waitFor(`${container.name} to send`, () =>
    ask(container, { frames: [] }).catch((e: NodeJS.ErrnoException) => {
      if (e.code === 'ENOENT' || e.code === 'ECONNREFUSED') return undefined; // not yet
      throw e;
    }),
  );

/** Another way than a packet socket (programs/raw.mjs). */
export type Way =
  | { readonly way: 'direct' | 'ip' }
  | {
      readonly way: 'free';
      readonly from: string;
      readonly to: { readonly address: string; readonly port: number };
    }
  | { readonly way: 'bound'; readonly to: { readonly address: string; readonly port: number } };
/** Sends the frames as they are, one after the other; resolves with what the attacker's own kernel refused. */
export async function trySending(
  container: Container,
  frames: readonly Bytes[],
  way?: Way,
): Promise<readonly number[]> {
  await listens(container);
  const answer = await ask(container, { frames: frames.map((f) => f.toString('hex')), ...way });
  return (JSON.parse(answer) as { errors: readonly number[] }).errors;
}
/** The same. Throws when the attacker's own kernel takes one of them not. */
export async function sendFrames(container: Container, frames: readonly Bytes[]): Promise<void> {
  const errors = await trySending(container, frames);
  if (errors.length > 0) throw new Error(`${container.name} could not send: errno ${errors.join(', ')}`);
}

export interface Where {
  readonly ip4: string;
  readonly ip6: string;
  readonly mac: string;
  readonly gateway4: string;
  readonly gatewayMac: string;
}
const places = new Map<string, Promise<Where>>();
/** The container's own addresses and its gateway's MAC, which is the bridge's. */
export function where(a: Attempt): Promise<Where> {
  const known = places.get(a.attacker.id) ?? find(a);
  places.set(a.attacker.id, known);
  return known;
}
async function find(a: Attempt): Promise<Where> {
  const { ip4, ip6, mac, gateway } = await a.attacker.addresses();
  const shown = await a.lab.inHost(['ip', '-j', 'address', 'show', 'to', gateway], { check: true });
  const [bridge] = JSON.parse(shown.stdout) as { ifname: string }[];
  const link = await a.lab.inHost(['ip', '-j', 'link', 'show', bridge?.ifname ?? ''], { check: true });
  const [found] = JSON.parse(link.stdout) as { address: string }[];
  if (found === undefined) throw new Error(`no bridge has ${gateway}`);
  return { ip4, ip6, mac, gateway4: gateway, gatewayMac: found.address };
}
/** From the attacker's own address, to this attempt's target or another. */
export async function ends(a: Attempt, dst = a.target): Promise<Ends> {
  const { ip4, ip6 } = await where(a);
  return { src: dst.includes(':') ? ip6 : ip4, dst };
}
/** Sends IP packets to the gateway, from the attacker's own MAC. */
export async function sendPackets(a: Attempt, packets: readonly Bytes[]): Promise<void> {
  const { mac, gatewayMac } = await where(a);
  await sendFrames(
    a.attacker,
    packets.map((p) => ether(gatewayMac, mac, etherTypeOf(p), p)),
  );
}
/** A technique's attack: packets from the attacker's own address to its target, through the gateway. */
const sending =
  (make: (e: Ends, a: Attempt) => readonly Bytes[]) =>
  async (a: Attempt): Promise<void> =>
    sendPackets(a, make(await ends(a), a));
/** Packets to the attempt's own target: whether any of them is seen there. */
export const toTarget = (
  families: readonly Family[],
  make: (e: Ends, a: Attempt) => readonly Bytes[],
): How => ({ families, attack: sending(make), reached: (a) => seen(a) });
