/** Containers whose first instructions try a forbidden address and a permitted one, and what of it the internet saw. */
import type { Lab } from '../lab/lab.js';
import { inParallel } from './support.js';

const AT_ONCE = 5;
export const permitted = (n: number): string => `93.184.${100 + Math.floor(n / 200)}.${1 + (n % 200)}`;
const forbidden = (n: number): string => `93.184.${200 + Math.floor(n / 200)}.${1 + (n % 200)}`;

/** SYNs that this namespace had to send again: TcpExt has a line of names and a line of values. */
const SYN_RETRANSMITS =
  'awk \'/^TcpExt:/ { if (!h) h = split($0, n); else { split($0, v); for (i in n) if (n[i] == "TCPSynRetrans") print "repeated", v[i] } }\' /proc/net/netstat';

/** The first instructions of a container: both at once, then whether TCP had to repeat the permitted SYN. */
const script = (n: number): string =>
  [
    `wget -q -T 1 -O /dev/null http://${forbidden(n)}/ &`,
    `ping -c 1 -W 1 ${forbidden(n)} >/dev/null &`,
    'read a _ </proc/uptime',
    `wget -q -T 5 -O /dev/null http://${permitted(n)}/ && echo reached`,
    'read b _ </proc/uptime',
    // a SYN that is sent again goes out a second later (RFC 6298); the forbidden one may be dropped and sent again
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
    'echo took $(( ${b%.*}${b#*.} - ${a%.*}${a#*.} ))',
    'wait',
    SYN_RETRANSMITS,
  ].join('\n');

async function start(lab: Lab, n: number): Promise<string> {
  const label = `drawbridge.allow=${permitted(n)}:80`;
  const args = ['run', '--rm', '--label', label, lab.images.busybox, 'sh', '-c', script(n)];
  const result = await lab.dockerResult(args, { timeoutMs: 120_000 });
  return result.stdout;
}

export interface Outcome {
  /** Packets to forbidden addresses. */
  readonly leaked: number;
  /** Containers that could not fetch from their permitted address. */
  readonly notReached: number;
  /** Containers whose permitted SYN was repeated, and first SYNs of permitted connections that arrived: a claim of time. */
  readonly repeated: number;
  readonly syns: number;
}

/** Start `count` containers, five at a time, each with addresses of its own by its number. */
export async function firstPackets(lab: Lab, from: number, count: number): Promise<Outcome> {
  await lab.sniffer.clear();
  const numbers = Array.from({ length: count }, (_, i) => from + i);
  const printed = await inParallel(AT_ONCE, numbers, (n) => start(lab, n));
  const leaked = await lab.sniffer.packets({ direction: 'out', dst: numbers.map(forbidden) });
  const syns = await lab.sniffer.packets({ direction: 'out', dst: numbers.map(permitted), onlyFlags: 'S' });
  return {
    leaked: leaked.length,
    notReached: numbers.filter((_, i) => !printed[i]?.includes('reached')).length,
    repeated: printed.filter((p) => /repeated [1-9]/.test(p) && Number(/took (\d+)/.exec(p)?.[1]) >= 95)
      .length,
    syns: syns.length,
  };
}
