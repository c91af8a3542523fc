// The other end of packet-sender.mjs: answers the greeting of a flow, reads no other datagram, and accepts TCP connections.
// Arguments: SERVER PORT. It prints a line when it listens.
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const [server, port] = [process.argv[2], Number(process.argv[3])];
const socket = createSocket({ type: 'udp4', recvBufferSize: 4096 });
socket.on('message', (data, from) => {
  if (data.toString() === 'hello') socket.send('hello', from.port, from.address);
});
socket.bind(port, server, () =>
  createServer((s) => s.on('error', () => undefined)).listen(port, server, 4096, () =>
    process.stdout.write('ready\n'),
  ),
);
