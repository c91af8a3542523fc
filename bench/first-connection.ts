/**
 * How long the first connection of a new container takes, with Drawbridge and without: containers that connect as their
 * first instruction, one after the other, on bare Docker and then, in the same lab, under an enforced policy that permits
 * it. The time is from the container's SYN on its bridge to the answer there, so that the start of a program does not count.
 * `npx tsx bench/first-connection.ts [--engine 26|28] [--starts 40] [--at-once 1]`, as root.
 */
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { ENGINES } from '../test/lab/packaged-engine.js';
import { waitFor } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { median } from './harness.js';

const { values } = parseArgs({
  options: {
    engine: { type: 'string', default: '26' },
    starts: { type: 'string', default: '40' },
    'at-once': { type: 'string', default: '1' },
  },
});
const engine = ENGINES.find((e) => e === values.engine);
if (engine === undefined) throw new Error(`--engine ${values.engine}: use one of ${ENGINES.join(', ')}`);
const starts = Number(values.starts);

interface Packet {
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

const lab = await Lab.up({ engine });
const packets: Packet[] = [];
const filter = 'tcp[tcpflags] & tcp-syn != 0';
const dump = spawn('nsenter', [
  `--net=${lab.hostNetns}`,
  ...['tcpdump', '--immediate-mode', '-nltt', '-i', 'docker0', filter],
]);
let rest = '';
let isListening = false;
dump.stderr.on('data', () => {
  isListening = true;
});
dump.stdout.on('data', (chunk: Buffer) => {
  const lines = (rest + chunk.toString()).split('\n');
  rest = lines.pop() ?? '';
  packets.push(...lines.map(packetOf).filter((p) => p !== undefined));
});
await waitFor('tcpdump to listen', () => isListening);

interface Measured {
  readonly ms: readonly number[];
  /** First SYNs that the container had to send again. */
  readonly repeated: number;
  readonly failed: number;
}

/** `starts` containers, each with an address of its own to connect to. */
async function measure(net: number, labels: (address: string) => readonly string[]): Promise<Measured> {
  const numbers = Array.from({ length: starts }, (_, i) => i);
  const address = (n: number): string => `93.184.${net}.${1 + n}`;
  const run = (n: number): Promise<{ code: number }> =>
    lab.dockerResult(
      [
        'run',
        '--rm',
        ...labels(address(n)),
        lab.images.busybox,
        ...['wget', '-q', '-T', '10', '-O', '/dev/null', `http://${address(n)}/`],
      ],
      { check: false },
    );
  const codes = await inParallel(Number(values['at-once']), numbers, run);
  const took = numbers.map((n) => {
    const syns = packets.filter((p) => p.isSyn && p.to === address(n));
    const answer = packets.find((p) => !p.isSyn && p.from === address(n));
    return { syns: syns.length, ms: (answer?.ms ?? Number.NaN) - (syns[0]?.ms ?? Number.NaN) };
  });
  return {
    ms: took.map((t) => t.ms).filter((ms) => !Number.isNaN(ms)),
    repeated: took.filter((t) => t.syns > 1).length,
    failed: codes.filter((c) => c.code !== 0).length,
  };
}

function line(name: string, m: Measured): string {
  const sorted = [...m.ms].sort((a, b) => a - b);
  const at = (share: number): string =>
    (sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN).toFixed(1);
  return `${name.padEnd(12)} median ${median(m.ms).toFixed(1)} ms, 90 % ${at(0.9)} ms, ${at(0)} to ${at(1)} ms; ${m.ms.length} answered, ${m.repeated} SYNs repeated, ${m.failed} failed`;
}

try {
  const bare = await measure(10, () => []);
  await lab.drawbridge({ config: { log: { level: 'warn' } } }).ready();
  const ours = await measure(20, (address) => ['--label', `drawbridge.allow=${address}:80`]);
  const text = [
    `Engine ${await lab.docker('version', '--format', '{{.Server.Version}}')}, ${starts} starts, ${values['at-once']} at once`,
    line('bare Docker', bare),
    line('Drawbridge', ours),
    `difference of the medians: ${(median(ours.ms) - median(bare.ms)).toFixed(1)} ms`,
  ];
  process.stdout.write(`${text.join('\n')}\n`);
} finally {
  dump.kill();
  await lab.down();
}
