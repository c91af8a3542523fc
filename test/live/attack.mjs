// Attacks for ever: UDP and TCP, v4 and v6, to forbidden addresses, the host and a neighbour, every few milliseconds.
// Plain JavaScript: it runs inside a container. Arguments: GATEWAY4 GATEWAY6 [NEIGHBOUR4 NEIGHBOUR6]
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';

const [gateway4, gateway6, neighbour4, neighbour6] = process.argv.slice(2);
const EVERY_MS = 5;
const PATIENCE_MS = 300;
const HOST_PORT = 7000;
const last = (n) => 1 + (n % 250);
const forbidden4 = (n) => `93.184.200.${last(n)}`;
const forbidden6 = (n) => `2600:9000:bad::${last(n).toString(16)}`;

let sent = 0;
const nothing = () => undefined;
const sockets = { 4: createSocket('udp4'), 6: createSocket('udp6') };
for (const s of Object.values(sockets)) s.on('error', nothing);

function datagram(family, host, port) {
  sockets[family].send('attack', port, host, nothing);
  sent++;
}
function syn(host, port) {
  const socket = connect({ host, port });
  const end = () => socket.destroy();
  socket.on('error', end).on('connect', end);
  setTimeout(end, PATIENCE_MS);
  sent++;
}

setInterval(() => {
  const n = sent;
  datagram(4, forbidden4(n), 5000 + (n % 1000));
  datagram(6, forbidden6(n), 5000 + (n % 1000));
  if (n % 4 < 2) return;
  syn(forbidden4(n), 443);
  syn(forbidden6(n), 443);
  if (gateway4) syn(gateway4, HOST_PORT);
  if (gateway6) syn(gateway6, HOST_PORT);
  if (neighbour4) datagram(4, neighbour4, HOST_PORT);
  if (neighbour6) datagram(6, neighbour6, HOST_PORT);
}, EVERY_MS);
setInterval(() => process.stdout.write(`${sent}\n`), 100);
