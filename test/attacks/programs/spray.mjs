// One datagram with this text to each address, at once or again and again. Plain JavaScript: it runs inside containers, alone.
// usage: spray.mjs JSON, with { to: [ADDRESS, …], port, text, from, fromPort, shared, everyMs, forMs }; prints { sent, refused }.
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const {
  to,
  port,
  text,
  from,
  fromPort = 0,
  shared = false,
  everyMs = 0,
  forMs = 0,
} = JSON.parse(process.argv[2]);
const AT_ONCE = 50;
let sent = 0;
let refused = 0;

async function socketOf(family, more = {}) {
  const socket = createSocket({ type: family, reuseAddr: shared, ...more });
  socket.on('error', () => undefined); // an ICMP error of an earlier datagram
  await new Promise((done) =>
    socket.bind({ port: fromPort, ...(from === undefined ? {} : { address: from }) }, done),
  );
  return socket;
}
const four = to.some((a) => !isIPv6(a)) ? await socketOf('udp4') : undefined;
const six = to.some((a) => isIPv6(a)) ? await socketOf('udp6', { ipv6Only: four !== undefined }) : undefined;

const one = (address) =>
  new Promise((done) => {
    const socket = isIPv6(address) ? six : four;
    socket.send(text, port, address, (e) => {
      if (e) refused++;
      else sent++;
      done();
    });
  });
async function round() {
  for (let i = 0; i < to.length; i += AT_ONCE) {
    await Promise.all(to.slice(i, i + AT_ONCE).map(one));
    if (to.length > AT_ONCE) await sleep(2);
  }
}
const end = Date.now() + forMs;
do {
  await round();
  if (everyMs > 0) await sleep(everyMs);
} while (Date.now() < end);
for (const s of [four, six]) if (s) await new Promise((done) => s.close(done));
process.stdout.write(`${JSON.stringify({ sent, refused })}\n`);
