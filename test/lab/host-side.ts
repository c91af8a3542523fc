/** The process in HOST's namespace: its stub resolver (a forwarder on a loopback address) and the sniffer's markers. */
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { serve } from './rpc.js';
import { MARKER } from './sniffer.js';
import { ADDRESSES, MARKER_PORT } from './topology.js';

const dir = process.argv[2];
if (dir === undefined) throw new Error('usage: host-side.ts FOLDER');
const upstream = { host: ADDRESSES.authority4[0], port: 53 };
const ANSWER_MS = 10_000;

export interface StubQuery {
  readonly time: number;
  readonly proto: 'udp' | 'tcp';
  /** An address of HOST: who asks the stub is in HOST's namespace. */
  readonly from: string;
}
const log: StubQuery[] = [];

function forwardUdp(): Promise<void> {
  const stub = createSocket('udp4');
  stub.on('message', (query, peer) => {
    log.push({ time: Date.now(), proto: 'udp', from: peer.address });
    const out = createSocket('udp4');
    const timer = setTimeout(() => out.close(), ANSWER_MS);
    out.on('error', () => undefined); // an unreachable authority: the asker's own time-out tells
    out.on('message', (answer) => {
      clearTimeout(timer);
      out.close();
      stub.send(answer, peer.port, peer.address);
    });
    out.send(query, upstream.port, upstream.host);
  });
  return new Promise((resolve, reject) => {
    stub.on('error', reject);
    stub.bind(53, ADDRESSES.stub, resolve);
  });
}

function forwardTcp(): Promise<void> {
  const server = createServer((asker) => {
    log.push({ time: Date.now(), proto: 'tcp', from: asker.remoteAddress ?? '' });
    const out = connect(upstream);
    asker.on('error', () => out.destroy());
    out.on('error', () => asker.destroy());
    asker.pipe(out).pipe(asker);
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(53, ADDRESSES.stub, resolve);
  });
}

const marker = createSocket('udp4');
await Promise.all([forwardUdp(), forwardTcp()]);
await serve(join(dir, 'host.sock'), {
  stubQueries: () => log,
  mark: (p: { marker: string }) =>
    new Promise<void>((resolve, reject) => {
      const done = (e: Error | null): void => (e ? reject(e) : resolve());
      marker.send(`${MARKER}${p.marker}`, MARKER_PORT, ADDRESSES.gateway4, done);
    }),
});
