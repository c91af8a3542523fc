/** Runs generated conversations for some time, and makes each hit as small as it can be. */
import type { Arena } from './generate-streams-arena.js';
import type { Conversation, Place } from './generate-streams-delivery.js';
import type { How, Step } from './generate-streams-sender.js';
import type { Seen } from './generate-streams-servers.js';

/** Conversations at a time. Most of their time is waiting. */
const AT_ONCE = 48;
const JUDGED_EVERY_MS = 2_000;

export interface Outcome {
  readonly seconds: number;
  readonly conversations: number;
  /** Of the container that is checked. */
  readonly opened: number;
  readonly answered: number;
  /** The same conversations by the other container: how many, and by how many of them a server was asked for another site. */
  readonly twins: number;
  readonly potent: number;
  readonly found: readonly Found[];
  readonly unknown: readonly Seen[];
  readonly ways: Readonly<Record<string, WayCounts>>;
}
/** Of one way: its conversations, those that were answered, and the same of the other container by which a server was asked for another site. */
interface WayCounts {
  all: number;
  answered: number;
  twins: number;
  potent: number;
}
interface Found {
  readonly conversation: Conversation;
  readonly seen: Seen;
  /** Seconds since the start. */
  readonly after: number;
}
export interface RunOptions {
  readonly seed: number;
  readonly seconds: number;
  /** Names of servers, protocols and ways; default: all. */
  readonly only?: (place: Place) => boolean;
  /** Ends with the first hit. */
  readonly isFirst?: boolean;
  readonly report?: (text: string) => void;
}

export async function runStreams(arena: Arena, o: RunOptions): Promise<Outcome> {
  const places = arena.places.filter(o.only ?? (() => true));
  const began = performance.now();
  const seconds = (): number => (performance.now() - began) / 1_000;
  const counts = { conversations: 0, opened: 0, answered: 0 };
  const ways: Record<string, WayCounts> = {};
  const countsOf = ({ protocol, way }: Conversation): WayCounts => {
    const counted = ways[`${protocol} ${way}`] ?? { all: 0, answered: 0, twins: 0, potent: 0 };
    ways[`${protocol} ${way}`] = counted;
    return counted;
  };
  const seeds: number[] = [];
  const found: Found[] = [];
  let known = arena.hits.length;
  let next = o.seed * 1_000_003;
  const look = (): void => {
    arena.judge();
    for (const { conversation, seen } of arena.hits.slice(known)) {
      if (found.some((f) => f.conversation.tag === conversation.tag)) continue;
      found.push({ conversation, seen, after: seconds() });
      o.report?.(`HIT after ${seconds().toFixed(1)} s: ${described(conversation)}: ${seen.names.join(', ')}`);
    }
    known = arena.hits.length;
  };
  const isOver = (): boolean =>
    seconds() >= o.seconds * HELD_SHARE || (o.isFirst === true && found.length > 0);
  const held = async (): Promise<void> => {
    while (!isOver()) {
      const seed = next++ >>> 0;
      seeds.push(seed);
      const { made, fate } = await arena.try(seed, places, 'held');
      counts.conversations += 1;
      counts.opened += fate.isOpen ? 1 : 0;
      counts.answered += fate.isAnswered ? 1 : 0;
      const counted = countsOf(made);
      counted.all += 1;
      counted.answered += fate.isAnswered ? 1 : 0;
    }
  };
  await allOf(held, look);
  await arena.settled();
  look();
  const after = seconds();
  // the same conversations by the other container: how many of them are such that a server takes them at all
  arena.phase = 'free';
  const twins: Conversation[] = [];
  let taken = 0;
  const free = async (): Promise<void> => {
    while (seconds() - after < o.seconds * (1 - HELD_SHARE) && taken < seeds.length && o.isFirst !== true)
      twins.push((await arena.try(seeds[taken++] ?? 0, places, 'free')).made);
  };
  await allOf(free, () => arena.judge());
  await arena.settled();
  arena.phase = 'held';
  for (const twin of twins) {
    countsOf(twin).twins += 1;
    if (arena.potent.has(twin.tag)) countsOf(twin).potent += 1;
  }
  const potent = twins.filter(({ tag }) => arena.potent.has(tag)).length;
  return { seconds: seconds(), ...counts, twins: twins.length, potent, found, unknown: arena.unknown, ways };
}
/** Of the time: what is left is for the container without a policy. */
const HELD_SHARE = 0.85;

async function allOf(worker: () => Promise<void>, look: () => void): Promise<void> {
  const timer = setInterval(look, JUDGED_EVERY_MS);
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  } finally {
    clearInterval(timer);
  }
}

export const described = ({ seed, way, server, protocol, family }: Conversation): string =>
  `seed ${seed}, ${way} at ${server} (${protocol}, ${family})`;

/** Whether this conversation gets through, alone. */
async function getsThrough(arena: Arena, made: Conversation): Promise<boolean> {
  await arena.settled(made.server);
  const before = arena.hits.length;
  await arena.run(made, 'held');
  await arena.settled(made.server);
  return arena.hits.slice(before).some((h) => h.conversation.tag === made.tag);
}
const MOST_TRIES = 80;
const MOST_MS = 40_000;

/** Leaves out steps and oddities, one after the other, as long as it gets through. Undefined: it does not by itself. */
export async function shrink(arena: Arena, made: Conversation): Promise<Conversation | undefined> {
  let tries = 0;
  const began = performance.now();
  const isOver = (): boolean => tries >= MOST_TRIES || performance.now() - began > MOST_MS;
  const holds = async (c: Conversation): Promise<boolean> => {
    tries += 1;
    return !isOver() && (await getsThrough(arena, c));
  };
  if (!(await holds(made)) && !(await holds(made))) return undefined;
  let least = made;
  for (let isSmaller = true; isSmaller && !isOver(); ) {
    isSmaller = false;
    for (const smaller of simpler(least))
      if (await holds(smaller)) {
        least = smaller;
        isSmaller = true;
        break;
      }
  }
  return least;
}
function* simpler(c: Conversation): Generator<Conversation> {
  const steps = (all: readonly Step[]): Conversation => ({ ...c, steps: all });
  for (let n = 0; n < c.steps.length; n++) yield steps(c.steps.filter((_, i) => i !== n));
  if (c.kernel && c.kernel.writes.length > 1)
    for (let n = 0; n < c.kernel.writes.length; n++)
      yield { ...c, kernel: { ...c.kernel, writes: c.kernel.writes.filter((_, i) => i !== n) } };
  if (Object.keys(c.opening).length > 0) yield { ...c, opening: {} };
  for (const [n, step] of c.steps.entries()) {
    if (step.do !== 'segment' || !step.how) continue;
    for (const name of Object.keys(step.how) as (keyof How)[]) {
      const { [name]: _, ...how } = step.how;
      yield steps(c.steps.map((s, i) => (i === n ? { ...step, how } : s)));
    }
  }
  // neighbours become one
  for (const [n, step] of c.steps.entries()) {
    const after = c.steps[n + 1];
    if (
      step.do !== 'segment' ||
      after?.do !== 'segment' ||
      step.how ||
      after.how ||
      after.at !== step.at + step.text.length
    )
      continue;
    yield steps([...c.steps.slice(0, n), { ...step, text: step.text + after.text }, ...c.steps.slice(n + 2)]);
  }
  // fewer lines of a head
  for (const [n, step] of c.steps.entries()) {
    if (step.do !== 'segment' || c.steps.filter((s) => s.do === 'segment').length > 1) continue;
    const lines = step.text.split('\r\n');
    for (let l = 1; l < lines.length - 1; l++)
      yield steps(
        c.steps.map((s, i) =>
          i === n ? { ...step, text: lines.filter((_, k) => k !== l).join('\r\n') } : s,
        ),
      );
  }
}

/** In a form that can be read. */
export const shown = (c: Conversation): string =>
  JSON.stringify({
    opening: c.opening,
    isn: c.isn,
    steps: c.steps,
    ...(c.kernel ? { kernel: c.kernel } : {}),
  });

export function summary(o: Outcome): string {
  const per = (a: number, b: number): string => (b === 0 ? '-' : `${((100 * a) / b).toFixed(0)} %`);
  const ways = Object.entries(o.ways)
    .sort()
    .map(([way, w]) => `${way} ${w.all} (${per(w.answered, w.all)}, ${per(w.potent, w.twins)})`);
  return [
    `${o.conversations} conversations in ${o.seconds.toFixed(0)} s; ${per(o.opened, o.conversations)} were opened, ${per(o.answered, o.conversations)} were answered`,
    `the same by a container without a policy: by ${per(o.potent, o.twins)} of ${o.twins} a server was asked for another site`,
    `of each way, how many of them were answered, and by how many a server was asked for another site without a policy: ${ways.join(', ')}`,
    `${o.found.length} hits, ${o.unknown.length} lines of logs that belong to no conversation`,
  ].join('\n');
}
