// Runs inside a container: node work.mjs PERMITTED-ADDRESS PERMITTED-NAME FORBIDDEN-ADDRESS…
// New connections to what is permitted, to a name, and to what is forbidden, over and over; a line of JSON each half second.
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';

const [address, name, ...forbidden] = process.argv.slice(2);
const done = { connections: 0, names: 0, attempts: 0 };
const failures = [];
const leaks = [];

const tryTcp = (host, port) =>
  new Promise((resolve) => {
    const s = connect({ host, port });
    const end = (outcome) => {
      s.destroy();
      resolve(outcome);
    };
    s.setTimeout(5_000, () => end('TIMEOUT'));
    s.on('connect', () => end('ok'));
    s.on('error', (e) => end(e.code));
  });
async function forEver(pauseMs, step) {
  for (;;) {
    await step();
    await new Promise((next) => setTimeout(next, pauseMs));
  }
}
const permitted = (kind, host) => async () => {
  const at = Date.now();
  const outcome = await tryTcp(host, 80);
  if (outcome === 'ok') done[kind] += 1;
  else failures.push({ kind, at, outcome });
};

void forEver(50, permitted('connections', address));
void forEver(200, permitted('names', name));
for (const host of forbidden) {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
  socket.on('error', () => undefined);
  socket.on('message', () => leaks.push({ udp: host }));
  void forEver(25, async () => {
    socket.send('out', 7777, host);
    done.attempts += 1;
  });
  void forEver(25, async () => {
    if ((await tryTcp(host, 80)) === 'ok') leaks.push({ tcp: host });
  });
}
setInterval(() => console.log(JSON.stringify({ at: Date.now(), done, failures, leaks })), 500);
