/**
 * From the start of a container to its first permitted packet, one container after the other and in a burst, under an enforced
 * policy and on bare Docker, each in a lab of its own. The containers connect as their first instruction. Two times: from the
 * first SYN on the bridge to its answer, which is what enforcement can delay, and from `docker run` to that answer.
 * `npx tsx bench/start.ts [--starts 20] [--rounds 3] [--burst 200] [--at-once 16] [--engine 26|28] [--keep]`, as root.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { ENGINES } from '../test/lab/packaged-engine.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { figure, median, quantile, ratios } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    engine: { type: 'string', default: '26' },
    starts: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '3' },
    burst: { type: 'string', default: '200' },
    'at-once': { type: 'string', default: '16' },
  },
});
const engine = ENGINES.find((e) => e === values.engine);
if (engine === undefined) throw new Error(`--engine ${values.engine}: use one of ${ENGINES.join(', ')}`);

interface Packet {
  /** Since the epoch. */
  readonly ms: number;
  readonly from: string;
  readonly to: string;
  readonly isSyn: boolean;
}

/** A line of `tcpdump -tt -n tcp` that is a SYN or the answer to one. */
function packetOf(line: string): Packet | undefined {
  const m = /^(\d+\.\d+) IP (\S+)\.\d+ > (\S+)\.\d+: Flags \[(S|S\.)\]/.exec(line);
  if (!m) return undefined;
  const [, seconds, from = '', to = '', flags] = m;
  return { ms: Number(seconds) * 1000, from, to, isSyn: flags === 'S' };
}

/** What a set of starts took; `waits` and `runs` in ms, one for each container that was answered. */
interface Starts {
  /** From the first SYN to its answer. */
  readonly waits: readonly number[];
  /** From `docker run` to the answer. */
  readonly runs: readonly number[];
  /** From the first `docker run` to the last answer. */
  readonly allMs: number;
  /** Containers that had to send their SYN again. */
  readonly repeated: number;
  readonly failed: number;
}

/** A lab with its bridge watched. */
class Place {
  readonly #packets: Packet[] = [];
  readonly #lab: Lab;
  readonly #isEnforced: boolean;
  #dump: ChildProcess | undefined;
  /** Each container connects to an address of its own. */
  #addresses = 0;

  constructor(lab: Lab, isEnforced: boolean) {
    this.#lab = lab;
    this.#isEnforced = isEnforced;
  }
  async watch(): Promise<void> {
    if (this.#isEnforced) await this.#lab.drawbridge({ config: { log: { level: 'warn' } } }).ready();
    const capture = ['tcpdump', '--immediate-mode', '-nltt', '-i', 'docker0', 'tcp[tcpflags] & tcp-syn != 0'];
    const dump = spawn('nsenter', [`--net=${this.#lab.hostNetns}`, ...capture]);
    this.#dump = dump;
    let rest = '';
    let isListening = false;
    dump.stderr.on('data', () => {
      isListening = true;
    });
    dump.stdout.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      this.#packets.push(...lines.map(packetOf).filter((p) => p !== undefined));
    });
    await waitFor('tcpdump to listen', () => isListening);
  }
  async start(count: number, atOnce: number): Promise<Starts> {
    const began = Date.now();
    const all = await inParallel(
      atOnce,
      Array.from({ length: count }, () => this.#addresses++),
      (n) => this.#one(`93.184.${1 + (n >> 7)}.${1 + (n & 127)}`),
    );
    const answered = all.filter((one) => one.answered !== undefined);
    return {
      waits: answered.map((one) => (one.answered ?? 0) - one.syn),
      runs: answered.map((one) => (one.answered ?? 0) - one.began),
      allMs: Math.max(...answered.map((one) => one.answered ?? 0)) - began,
      repeated: all.filter((one) => one.syns > 1).length,
      failed: all.filter((one) => one.code !== 0 || one.answered === undefined).length,
    };
  }
  async #one(address: string) {
    const began = Date.now();
    const labels = this.#isEnforced ? ['--label', `drawbridge.allow=${address}:80`] : [];
    const fetch = ['wget', '-q', '-T', '10', '-O', '/dev/null', `http://${address}/`];
    const argv = ['run', '--rm', ...labels, this.#lab.images.busybox, ...fetch];
    const { code } = await this.#lab.dockerResult(argv, { check: false });
    const syns = this.#packets.filter((p) => p.isSyn && p.to === address);
    const answer = this.#packets.find((p) => !p.isSyn && p.from === address);
    return { began, code, syns: syns.length, syn: syns[0]?.ms ?? Number.NaN, answered: answer?.ms };
  }
  async end(): Promise<void> {
    this.#dump?.kill();
    await this.#lab.down();
  }
}

const [starts, rounds, burst] = [Number(values.starts), Number(values.rounds), Number(values.burst)];
const atOnce = Number(values['at-once']);

/** A row of one value of each round. */
function row(
  id: string,
  label: string,
  theirs: readonly number[],
  own: readonly number[],
  note?: string,
): Row {
  return {
    id,
    label,
    unit: 'ms',
    ours: figure(own),
    beside: { ...figure(theirs), label: 'bare Docker' },
    ratio: ratios(own, theirs),
    ...(note !== undefined && { note }),
  };
}

const noteOf = ({ repeated, failed }: Starts): string => `${repeated} SYNs repeated, ${failed} failed`;

/** Several containers one after the other in each round; the place that begins changes with the round. */
async function alone(places: readonly [Place, Place]): Promise<readonly Row[]> {
  const results: [Starts[], Starts[]] = [[], []];
  for (let round = 0; round < rounds; round++)
    for (const i of round % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const))
      results[i].push(await places[i].start(starts, 1));
  const [theirs, own] = results;
  const each = (part: readonly Starts[], value: (s: Starts) => number): readonly number[] => part.map(value);
  const all: Starts = {
    waits: [],
    runs: [],
    allMs: 0,
    repeated: own.reduce((sum, s) => sum + s.repeated, 0),
    failed: own.reduce((sum, s) => sum + s.failed, 0),
  };
  const wait = (s: Starts): number => median(s.waits);
  const slow = (s: Starts): number => quantile(s.waits, 0.9);
  const run = (s: Starts): number => median(s.runs);
  return [
    row(
      'start-alone',
      'alone: first SYN to its answer, median',
      each(theirs, wait),
      each(own, wait),
      noteOf(all),
    ),
    row('start-alone-p90', 'alone: first SYN to its answer, 90 %', each(theirs, slow), each(own, slow)),
    row('start-alone-run', 'alone: `docker run` to the answer, median', each(theirs, run), each(own, run)),
  ];
}

/** One burst at each place. */
async function inBurst([bare, enforced]: readonly [Place, Place]): Promise<readonly Row[]> {
  const theirs = await bare.start(burst, atOnce);
  const own = await enforced.start(burst, atOnce);
  const name = `burst of ${burst}, ${atOnce} at once`;
  const one = (id: string, label: string, value: (s: Starts) => number, note?: string): Row =>
    row(id, `${name}: ${label}`, [value(theirs)], [value(own)], note);
  return [
    one('start-burst', 'first SYN to its answer, median', (s) => median(s.waits), noteOf(own)),
    one('start-burst-p99', 'first SYN to its answer, 99 %', (s) => quantile(s.waits, 0.99)),
    one('start-burst-all', 'first `docker run` to the last answer', (s) => s.allMs),
  ];
}

const places: Place[] = [];
try {
  for (const isEnforced of [false, true]) {
    const place = new Place(await Lab.up({ engine, sniffer: false, onDisk: true }), isEnforced);
    places.push(place);
    await place.watch();
  }
  const both = places as [Place, Place];
  for (const place of both) await place.start(2, 1); // not counted
  const rows = [...(await alone(both)), ...(await inBurst(both))];
  await writeResult('start', 'sudo npx tsx bench/start.ts', rows);
} finally {
  for (const place of places) await place.end();
}
