// Counts what reaches port 7000, TCP connections and datagrams of both families, and prints the sum when it changes.
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const PORT = 7000;
let count = 0;
let printed = -1;
createServer((socket) => {
  count++;
  socket.on('error', () => undefined).destroy();
}).listen({ host: '::', port: PORT });
createSocket({ type: 'udp6' })
  .on('message', () => count++)
  .bind(PORT, '::');
setInterval(() => {
  if (count !== printed) process.stdout.write(`${count}\n`);
  printed = count;
}, 50);
