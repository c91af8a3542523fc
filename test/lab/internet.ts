/** The process in NET: DNS, HTTP, TLS, echo and the sniffer, directed over a unix socket. Arguments: the lab's folder, "sniffer" or "no-sniffer". */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startAuthority } from './authority.js';
import { Certificates } from './certs.js';
import { startEcho } from './echo.js';
import { serve } from './rpc.js';
import { type Answer, Sink } from './sink.js';
import { type PacketFilter, Sniffer } from './sniffer.js';
import { type Site, startWeb } from './web.js';
import type { Zone } from './zone.js';

const dir = process.argv[2];
if (dir === undefined) throw new Error('usage: internet.ts FOLDER');

const certificateDir = join(dir, 'certificates');
mkdirSync(certificateDir, { recursive: true });
const certificates = new Certificates(certificateDir);
const sniffer = process.argv[3] === 'sniffer' ? new Sniffer() : undefined;
function theSniffer(): Sniffer {
  if (sniffer) return sniffer;
  throw new Error('this lab was made with sniffer: false');
}
const sink = new Sink();
const [authority, web] = await Promise.all([
  startAuthority(),
  certificates.start().then(() => startWeb(certificates, sink)),
  startEcho(),
  sniffer?.ready(),
]);

await serve(join(dir, 'internet.sock'), {
  setZone: (p: { zone: Zone }) => authority.zones.set(p.zone),
  removeNames: (p: { names: string[] }) => authority.zones.remove(p.names),
  clearZones: () => authority.zones.clear(),
  queries: (p: { name?: string }) => authority.queries(p.name),
  clearQueries: () => authority.clearLog(),
  requests: () => web.requests,
  clearRequests: () => {
    web.requests.length = 0;
  },
  streams: (p: { from: number; to: number }) =>
    sink.streams.filter((s) => s.fromPort >= p.from && s.fromPort < p.to),
  answerStream: (p: { fromPort: number; answers: Answer[] }) => sink.script(p.fromPort, p.answers),
  serveSite: (p: { host: string; site: Site }) => web.serve(p.host, p.site),
  markerSeen: (p: { marker: string; ms: number }) => theSniffer().seen(p.marker, p.ms),
  cursor: () =>
    theSniffer()
      .check()
      .then(() => theSniffer().cursor()),
  packets: (filter: PacketFilter) =>
    theSniffer()
      .check()
      .then(() => theSniffer().find(filter)),
  count: (filter: PacketFilter) =>
    theSniffer()
      .check()
      .then(() => theSniffer().find(filter).length),
  clearPackets: () => theSniffer().clear(),
});
process.on('SIGTERM', () => {
  sniffer?.stop();
  process.exit(0);
});
