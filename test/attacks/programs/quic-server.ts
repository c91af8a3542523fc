/** Answers each Initial packet with the beginning of a ServerHello, as a server of QUIC does. Usage: quic-server.ts PORT */
import { createSocket } from 'node:dgram';
import { initialsOfServer } from '../../../src/connections/quic-initial.js';
import { initialPacket, serverHello } from '../../pure/connections/hello-maker.js';

const socket = createSocket('udp4', (datagram, { address, port }) => {
  for (const { dcid, version } of initialsOfServer(datagram).slice(0, 1))
    socket.send(
      initialPacket({ version, dcid: Buffer.alloc(8, 3), keyId: dcid, side: 'server', frames: serverHello }),
      port,
      address,
    );
});
socket.bind(Number(process.argv[2]), '0.0.0.0', () => console.log('listening'));
