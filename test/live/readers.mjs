// Readers of the API over TCP, as many as are asked for, for a while: each asks again as soon as it has its answer, whatever
// it says. Arguments: PORT TOKEN READERS SECONDS NICE [slow]. With "slow": connections that send a byte each five seconds.
// NICE above 0 is also that of its autogroup, so that it must be a session of its own.
import { writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const [port, token, readers, seconds, nice, mode] = process.argv.slice(2);
setPriority(Number(nice));
try {
  if (Number(nice) > 0) writeFileSync('/proc/self/autogroup', nice);
} catch {
  // a kernel without autogroups
}
const PATHS = [
  '/v1/containers',
  '/v1/plan',
  '/v1/status',
  '/v1/containers',
  '/v1/scan',
  '/v1/flows',
  '/v1/events',
];
const until = Date.now() + Number(seconds) * 1000;
const counts = {};
const count = (what) => {
  counts[what] = (counts[what] ?? 0) + 1;
};
const agent = new Agent({ keepAlive: true, maxSockets: Number(readers) });

/** One request to its end; a stream is left after a second. */
function ask(path) {
  return new Promise((done) => {
    const headers = { authorization: `Bearer ${token}` };
    const sent = request({ host: '127.0.0.1', port, path, agent, headers, timeout: 30_000 }, (answer) => {
      count(answer.statusCode);
      const isStream = answer.headers['content-type'] === 'text/event-stream';
      const timer = isStream ? setTimeout(() => answer.destroy(), 1000) : undefined;
      answer.resume();
      answer.on('close', () => {
        clearTimeout(timer);
        done(true);
      });
    });
    sent.on('timeout', () => sent.destroy(new Error('timeout')));
    sent.on('error', (e) => {
      count(e.code ?? e.message);
      done(false);
    });
    sent.end();
  });
}

async function reader(n) {
  for (let i = n; Date.now() < until; i++) if (!(await ask(PATHS[i % PATHS.length]))) await sleep(100);
}

async function slow() {
  while (Date.now() < until) {
    const socket = connect(Number(port), '127.0.0.1');
    const ended = new Promise((done) => socket.once('close', done));
    socket.on('error', (e) => count(e.code));
    socket.on('connect', () => count('connected'));
    socket.on('data', () => count('answered'));
    const timer = setInterval(() => socket.write('G'), 5000);
    await Promise.race([ended, sleep(until - Date.now())]);
    clearInterval(timer);
    socket.destroy();
    await sleep(200);
  }
}

process.stdout.write('begun\n');
await Promise.all(Array.from({ length: Number(readers) }, (_, n) => (mode === 'slow' ? slow() : reader(n))));
process.stdout.write(`${JSON.stringify(counts)}\n`);
process.exit(0);
