/** The process in NET: DNS, HTTP, TLS, echo and the sniffer, directed over a unix socket. Argument: the lab's folder. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startAuthority } from './authority.js';
import { Certificates } from './certs.js';
import { startEcho } from './echo.js';
import { serve } from './rpc.js';
import { type PacketFilter, Sniffer } from './sniffer.js';
import { startWeb } from './web.js';
import type { Zone } from './zone.js';

const dir = process.argv[2];
if (dir === undefined) throw new Error('usage: internet.ts FOLDER');

const certificateDir = join(dir, 'certificates');
mkdirSync(certificateDir, { recursive: true });
const certificates = new Certificates(certificateDir);
const sniffer = new Sniffer();
const [authority, web] = await Promise.all([
  startAuthority(),
  certificates.start().then(() => startWeb(certificates)),
  startEcho(),
  sniffer.ready(),
]);

await serve(join(dir, 'internet.sock'), {
  setZone: (p: { zone: Zone }) => authority.zones.set(p.zone),
  removeNames: (p: { names: string[] }) => authority.zones.remove(p.names),
  clearZones: () => authority.zones.clear(),
  queries: () => authority.queries(),
  clearQueries: () => authority.clearLog(),
  requests: () => web,
  clearRequests: () => {
    web.length = 0;
  },
  markerSeen: (p: { marker: string }) => sniffer.seen(p.marker),
  cursor: () => sniffer.cursor(),
  packets: (filter: PacketFilter) => sniffer.find(filter),
  count: (filter: PacketFilter) => sniffer.find(filter).length,
  clearPackets: () => sniffer.clear(),
  checkSniffer: () => sniffer.check(),
});
process.on('SIGTERM', () => {
  sniffer.stop();
  process.exit(0);
});
