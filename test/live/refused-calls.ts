/** System calls of a running process that fail: strace(1) attaches to all of its threads and makes the kernel refuse some. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Random } from '../fuzz/random.js';
import { waitFor } from '../lab/process.js';

/** What a call may fail with: the errors of its man page that no wrong argument of the caller causes, and those of the network below it. */
const REFUSALS = {
  socket: [
    'EACCES',
    'EAFNOSUPPORT',
    'EMFILE',
    'ENFILE',
    'ENOBUFS',
    'ENOMEM',
    'EPERM',
    'EPROTONOSUPPORT',
    'EINVAL',
  ],
  bind: [
    'EACCES',
    'EADDRINUSE',
    'EADDRNOTAVAIL',
    'EAGAIN',
    'EINVAL',
    'ENOBUFS',
    'ENOMEM',
    'EPERM',
    'EAFNOSUPPORT',
  ],
  connect: [
    ...[
      'EACCES',
      'EPERM',
      'EADDRINUSE',
      'EADDRNOTAVAIL',
      'EAFNOSUPPORT',
      'EAGAIN',
      'EALREADY',
      'ECONNREFUSED',
    ],
    ...[
      'EINTR',
      'EINVAL',
      'EISCONN',
      'ENETUNREACH',
      'EHOSTUNREACH',
      'EPROTOTYPE',
      'ETIMEDOUT',
      'ENOBUFS',
      'ENETDOWN',
    ],
  ],
  accept4: [
    ...[
      'EAGAIN',
      'ECONNABORTED',
      'EINTR',
      'EINVAL',
      'EMFILE',
      'ENFILE',
      'ENOBUFS',
      'ENOMEM',
      'EPROTO',
      'EPERM',
    ],
    ...['ENETDOWN', 'ENOPROTOOPT', 'EHOSTDOWN', 'ENONET', 'EHOSTUNREACH', 'EOPNOTSUPP', 'ENETUNREACH'],
  ],
  sendto: [
    ...[
      'EACCES',
      'EAGAIN',
      'EALREADY',
      'ECONNRESET',
      'EDESTADDRREQ',
      'EINTR',
      'EINVAL',
      'EISCONN',
      'EMSGSIZE',
    ],
    ...['ENOBUFS', 'ENOMEM', 'ENOTCONN', 'EPIPE', 'EPERM', 'ENETUNREACH', 'EHOSTUNREACH', 'ECONNREFUSED'],
  ],
  sendmsg: [
    ...[
      'ENETUNREACH',
      'EHOSTUNREACH',
      'ECONNREFUSED',
      'EACCES',
      'EAGAIN',
      'ECONNRESET',
      'EDESTADDRREQ',
      'EINTR',
    ],
    ...['EINVAL', 'EISCONN', 'EMSGSIZE', 'ENOBUFS', 'ENOMEM', 'ENOTCONN', 'EPIPE', 'EPERM', 'ENETDOWN'],
  ],
  sendmmsg: [
    ...[
      'EPERM',
      'ENETUNREACH',
      'EHOSTUNREACH',
      'ECONNREFUSED',
      'EACCES',
      'EAGAIN',
      'ECONNRESET',
      'EINTR',
      'EINVAL',
    ],
    ...['EMSGSIZE', 'ENOBUFS', 'ENOMEM', 'ENOTCONN', 'EPIPE', 'ENETDOWN', 'EDESTADDRREQ', 'EISCONN'],
  ],
  recvfrom: [
    'EAGAIN',
    'ECONNREFUSED',
    'EINTR',
    'EINVAL',
    'ENOMEM',
    'ENOTCONN',
    'ENOBUFS',
    'ECONNRESET',
    'ENETDOWN',
    'EIO',
  ],
  recvmsg: [
    'ECONNREFUSED',
    'EHOSTUNREACH',
    'EINTR',
    'ENOMEM',
    'ENOTCONN',
    'EAGAIN',
    'ECONNRESET',
    'EINVAL',
    'ENETUNREACH',
  ],
  recvmmsg: [
    'EHOSTUNREACH',
    'ECONNREFUSED',
    'EINTR',
    'ENOMEM',
    'EAGAIN',
    'EINVAL',
    'ENETUNREACH',
    'ENOTCONN',
    'ENOBUFS',
  ],
  setsockopt: ['ENOPROTOOPT', 'EINVAL', 'ENOMEM', 'EPERM', 'ENOBUFS', 'EDOM'],
  getsockopt: ['ENOPROTOOPT', 'EINVAL', 'ENOBUFS', 'EPERM'],
  getsockname: ['ENOBUFS', 'EINVAL'],
  getpeername: ['ENOTCONN', 'ENOBUFS', 'EINVAL'],
  listen: ['EADDRINUSE', 'EOPNOTSUPP'],
  shutdown: ['ENOTCONN', 'EINVAL'],
} as const;
/** Only many datagrams at once are sent by it. */
export const RARE = 'sendmmsg';
export const REFUSED_CALLS = Object.keys(REFUSALS).filter((call) => call !== RARE);
export const ROUNDS = Math.max(...Object.values(REFUSALS).map((all) => all.length));

/** One refusal for each call: every n-th call of it fails while this is open, from a first one on. */
export function refusalsOf(round: number, seed: number): readonly string[] {
  const random = new Random(seed + round);
  return Object.entries(REFUSALS).map(([call, errors]) => {
    const error = errors[round % errors.length] as string;
    return `${call}:error=${error}:when=${1 + random.below(3)}+${2 + random.below(3)}`;
  });
}

/** Attaches to the process, calls `during`, and lets go of it. Returns how often each call failed, and with what. */
export async function refuseCalls(
  pid: number,
  refusals: readonly string[],
  log: string,
  during: () => Promise<void>,
): Promise<ReadonlyMap<string, number>> {
  const trace = refusals.map((r) => r.slice(0, r.indexOf(':'))).join(',');
  const argv = ['-f', '-o', log, '-e', `trace=${trace}`, ...refusals.flatMap((r) => ['-e', `inject=${r}`])];
  const strace = spawn('strace', [...argv, '-p', String(pid)], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  strace.stderr.on('data', (d: Buffer) => {
    said += d.toString();
  });
  const ended = once(strace, 'exit');
  try {
    await waitFor('strace to attach', () => said.includes('attached') || strace.exitCode !== null);
    if (strace.exitCode !== null) throw new Error(`strace: ${said}`);
    await during();
  } finally {
    strace.kill('SIGINT');
    await ended;
  }
  const counts = new Map<string, number>();
  for (const [, call = '', error = ''] of readFileSync(log, 'utf8').matchAll(
    /\b(\w+)(?:\(| resumed>).* = -1 (E\w+) .*\(INJECTED\)/g,
  ))
    counts.set(`${call} ${error}`, (counts.get(`${call} ${error}`) ?? 0) + 1);
  return counts;
}
