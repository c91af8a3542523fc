/**
 * The frame of the attack suite: a file is a family of techniques in one lab. Each technique is tried twice, the very same
 * way: on a host where Drawbridge never ran (the control: it must get out) and by an enforced container (it must not).
 * What got out is judged by the sniffer in the lab's internet and by the authority's log, never by the attacker.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import type { Drawbridge, DrawbridgeSpec } from '../lab/drawbridge.js';
import { Lab, type LabOptions } from '../lab/lab.js';
import { type Result, waitFor } from '../lab/process.js';
import type { PacketFilter } from '../lab/sniffer.js';
import { announce, type Described, type Family, report, type Side } from './report.js';

/** What every enforced attacker may reach, so that it is seen to have a policy and not merely no network. */
export const PERMITTED = { v4: '93.184.1.1', v6: '2600:9000:1::1', port: 80 } as const;
const ALLOW = `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80`;
export const PROGRAMS = `${join(import.meta.dirname, 'programs')}:/attacks:ro`;
const SLOWEST_MS = 60_000;
const ARRIVES_WITHIN_MS = 10_000;

export interface Attempt {
  readonly lab: Lab;
  readonly side: Side;
  readonly family: Family;
  /** A DNS label that only this attempt uses: put it in names and payloads. */
  readonly tag: string;
  /** An address of the internet that only this attempt uses, and no policy permits. */
  readonly target: string;
  /** The container that attacks: in the control nothing is enforced for it. */
  readonly attacker: Container;
  /** Absent while Drawbridge does not run. */
  readonly drawbridge?: Drawbridge;
  /** A command of the host's in the attacker's network namespace, with all of root's powers there: more than it has. */
  asRoot(...argv: readonly string[]): Promise<Result>;
}
export interface Technique extends Described {
  /** Shares something that no other may use at the same time: runs by itself. */
  readonly alone?: boolean;
  /** Why its control cannot be tried before Drawbridge starts: a container in mode off tries it next to the enforced one. */
  readonly controlOff?: string;
  /** Does it; must not throw because it was refused. */
  attack(a: Attempt): Promise<unknown>;
  /** Whether it got where it should not: ask `seen` or `asked`, or a listener's own log. */
  reached(a: Attempt): Promise<boolean>;
  /** Additional text for the message of a failure. */
  evidence?(a: Attempt): Promise<string>;
}
/** The part of a technique that is the same for many. */
export type How = Pick<Technique, 'families' | 'attack' | 'reached'>;
export interface SuiteOptions {
  readonly lab?: LabOptions;
  /** A function: once the lab is prepared. */
  readonly drawbridge?: DrawbridgeSpec | (() => DrawbridgeSpec);
  /** Both attackers; its labels are the enforced one's. Default: the default bridge and a policy of PERMITTED alone. */
  readonly attacker?: RunSpec;
  /**
   * before (default): all controls are tried before Drawbridge starts, so that harm which Drawbridge itself adds shows.
   * off: every technique has this reason as its `controlOff`.
   */
  readonly control?: 'before' | { readonly off: string };
  /** What the attacker that must be held is. Observed ones are for what no container may, whatever its mode. */
  readonly mode?: 'enforce' | 'observe';
  /** Zones, networks, other containers; before Drawbridge starts. */
  prepare?(lab: Lab): Promise<void>;
  /** Each attacker right after its start, before Drawbridge or with it. */
  started?(lab: Lab, attacker: Container): Promise<void>;
  /** Once Drawbridge is ready and the enforced attacker is enforced, before the attempts. */
  enforced?(lab: Lab, drawbridge: Drawbridge): Promise<void>;
}

/** Packets of this attempt that the internet saw: to its own target, or as the filter says. */
export const seen = async (a: Attempt, filter: PacketFilter = { dst: a.target }): Promise<boolean> =>
  (await a.lab.sniffer.count({ direction: 'out', ...filter })) > 0;
/** Whether the authority was asked for a name with this attempt's tag. */
export const asked = async (a: Attempt): Promise<boolean> =>
  (await a.lab.dns.queries()).some((q) => q.name.includes(a.tag));
/** Runs programs/FILE in the attacker: its last line, as JSON. */
export async function program<T>(
  a: Attempt,
  file: string,
  ...words: readonly (string | number)[]
): Promise<T> {
  const r = await a.attacker.exec(['node', `/attacks/${file}`, ...words.map(String)], {
    timeoutMs: SLOWEST_MS,
  });
  const line = r.stdout.trim().split('\n').at(-1) ?? '';
  if (!line.startsWith('{'))
    throw new Error(`${file} printed no result: exit ${r.code}: ${r.stdout}${r.stderr}`);
  return JSON.parse(line) as T;
}
/** Waits until the controller says that the container is in this mode, and held. */
async function untilEnforced(
  drawbridge: Drawbridge,
  container: string,
  wanted: 'enforce' | 'observe' = 'enforce',
): Promise<void> {
  await waitFor(`${container} to be in mode ${wanted}`, async () => {
    const { status, body } = await drawbridge.get(`/v1/containers/${container}`);
    if (status !== 200) return false;
    const { mode, coverage } = JSON.parse(body) as { mode: string; coverage: { state: string } };
    return mode === wanted && coverage.state !== 'unenforced';
  });
}

const label = (t: Technique, family: Family, side: Side): string =>
  `${t.id}-${family}${side === 'control' ? 'c' : 'h'}`;
/** Both families and both sides of technique number `index` have addresses of their own. */
function targetOf(index: number, family: Family, side: Side): string {
  const n = 2 * index + (side === 'control' ? 0 : 1);
  return family === 'v4'
    ? `93.184.${100 + Math.floor(n / 200)}.${1 + (n % 200)}`
    : `2600:9000:a77a::${(1 + n).toString(16)}`;
}
const reachesPermitted = async (c: Container): Promise<boolean> => {
  for (const host of [PERMITTED.v4, PERMITTED.v6])
    if (!(await c.probe('tcp', host, PERMITTED.port, '--timeout', 10_000)).ok) return false;
  return true;
};

/** For what nothing stops: its packet may still be on its way, while the address of a neighbour is being asked for. */
async function reachesInTime(t: Technique, a: Attempt): Promise<boolean> {
  const end = performance.now() + ARRIVES_WITHIN_MS;
  for (;;) {
    if (await t.reached(a)) return true;
    if (performance.now() > end) return false;
    await sleep(100);
  }
}

/** What a failure is to be understood by: what got out, and what Drawbridge did meanwhile. */
async function tell(a: Attempt): Promise<void> {
  const packets = await a.lab.sniffer.packets({ direction: 'out', dst: a.target });
  const shown = packets.slice(0, 10).map((p) => `${new Date(p.time).toISOString()} ${JSON.stringify(p)}`);
  console.error(
    `${a.tag}: ${packets.length} packets to ${a.target} from ${a.attacker.id}\n${shown.join('\n')}\n${a.drawbridge?.logs().slice(-8000)}`,
  );
}

/** Declares the tests of one family. `name` is for people. */
export function attackSuite(name: string, options: SuiteOptions, techniques: readonly Technique[]): void {
  const isBefore = (t: Technique): boolean =>
    t.controlOff === undefined && typeof options.control !== 'object';
  const first = techniques.filter(isBefore);
  const attackers = new Map<Side, Container>();
  /** The additional texts of techniques that were not stopped, by tag. */
  const evidence = new Map<string, string>();
  let lab: Lab;
  let drawbridge: Drawbridge | undefined;
  for (const t of techniques) announce(t);

  const start = async (side: Side): Promise<Container> => {
    const spec = options.attacker ?? {};
    const mode = { 'drawbridge.mode': side === 'control' ? 'off' : (options.mode ?? 'enforce') };
    const attacker = await lab.start({
      ...spec,
      name: `attacker-${side}`,
      labels: { 'drawbridge.allow': ALLOW, ...spec.labels, ...mode },
      mounts: [...(spec.mounts ?? []), PROGRAMS],
    });
    attackers.set(side, attacker);
    await options.started?.(lab, attacker);
    return attacker;
  };
  const enforce = async (): Promise<void> => {
    const spec = options.drawbridge ?? {};
    drawbridge = lab.drawbridge(typeof spec === 'function' ? spec() : spec);
    await drawbridge.ready();
    await attackers.get('control')?.remove();
    if (first.length < techniques.length) await start('control');
    const held = await start('held');
    await untilEnforced(drawbridge, held.name, options.mode);
    await options.enforced?.(lab, drawbridge);
    expect(await reachesPermitted(held)).toBe(true);
  };
  const attempt = async (t: Technique, family: Family, side: Side): Promise<boolean> => {
    const attacker = attackers.get(side);
    if (attacker === undefined) throw new Error(`${t.id}: no ${side} attacker`);
    const target = targetOf(techniques.indexOf(t), family, side);
    const asRoot = async (...argv: readonly string[]): Promise<Result> =>
      lab.inHost(['nsenter', `--net=/proc/${await attacker.pid()}/ns/net`, '--', ...argv]);
    const common = { lab, side, family, tag: label(t, family, side), target, attacker, asRoot };
    const a: Attempt = drawbridge === undefined ? common : { ...common, drawbridge };
    await t.attack(a);
    const isExpected = side === 'control' || t.notStopped !== undefined;
    const out = await (isExpected ? reachesInTime(t, a) : t.reached(a));
    report(t, family, side, out);
    if (out && side === 'held' && t.notStopped === undefined) {
      evidence.set(a.tag, (await t.evidence?.(a)) ?? '');
      await tell(a);
    }
    return out;
  };
  const declare = (t: Technique, what: string, run: (family: Family) => Promise<void>): void => {
    for (const family of t.families)
      (t.alone ? it.sequential : it.concurrent)(`${t.id} ${family}${what}: ${t.title}`, () => run(family));
  };
  /** What is not stopped is shown to get out: the day that it is, the documents must change. */
  const verdict = (t: Technique): boolean => t.notStopped !== undefined;

  describe(name, () => {
    beforeAll(async () => {
      lab = await Lab.up(options.lab ?? {});
      await options.prepare?.(lab);
      if (first.length > 0) await start('control');
    });
    afterAll(() => lab?.down());

    if (first.length > 0)
      describe('control, before Drawbridge', () => {
        for (const t of first)
          declare(t, '', async (family) =>
            expect({ out: await attempt(t, family, 'control') }).toEqual({ out: true }),
          );
      });
    describe('held', () => {
      beforeAll(enforce);
      for (const t of techniques)
        declare(t, '', async (family) => {
          const sides: readonly Side[] = isBefore(t) ? ['held'] : ['control', 'held'];
          const outs = await Promise.all(sides.map((side) => attempt(t, family, side)));
          const control = isBefore(t) ? [] : [{ side: 'control', out: true }];
          const message = evidence.get(label(t, family, 'held'));
          expect(
            sides.map((side, i) => ({ side, out: outs[i] })),
            message,
          ).toEqual([...control, { side: 'held', out: verdict(t) }]);
        });
    });
    it('what the enforced attacker may reach, it still reaches', async () => {
      const held = attackers.get('held');
      expect(held !== undefined && (await reachesPermitted(held))).toBe(true);
    });
  });
}
