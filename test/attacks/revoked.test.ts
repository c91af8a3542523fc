/** Flows that stood when their permission went: neither end may go on with them, nor pick them up again. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Lab } from '../lab/lab.js';
import { engineOfRun } from '../lab/packaged-engine.js';
import { Flows } from '../live/flows.js';
import { shownHere } from './report.js';

const PEERS = ['93.184.60.1', '2600:9000:60::1'];
const MINE = { 'drawbridge.allow': '93.184.1.1:80' };
/** Spec: within a second. */
const CUT_MS = 1_000;
/** How long stragglers of either end get to pick a flow up again: TCP repeats itself within that. */
const WATCH_MS = 4_000;
const BOTH = ['v4', 'v6'] as const;
const CUT =
  'flows that are no longer permitted are deleted from conntrack; a packet without a flow is evaluated as new';
const shown = [
  shownHere({
    id: 'revoked-client',
    title: 'a connection goes on after its entry was revoked: the container sends',
    families: BOTH,
    stoppedBy: CUT,
  }),
  shownHere({
    id: 'revoked-server',
    title: 'the same, the other end sends, on a network without masquerade',
    families: BOTH,
    stoppedBy:
      'packets from outside open no flow to an enforced container, and deleted 5-tuples stay blocked',
  }),
];

const BRIDGE = 'com.docker.network.bridge';
const NO_MASQUERADE = ['enable_ip_masquerade=false'];
const ROUTED = ['gateway_mode_ipv4=routed', 'gateway_mode_ipv6=routed'];

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up({});
  // Engine 28 drops what comes to a container's own address from elsewhere (raw PREROUTING), but on a routed network
  const options = engineOfRun() === '28' ? ROUTED : NO_MASQUERADE;
  await lab.docker(
    'network',
    'create',
    '--ipv6',
    ...options.flatMap((o) => ['-o', `${BRIDGE}.${o}`]),
    'plain',
  );
});
afterAll(() => lab?.down());

it('eight flows, both ends sending, TCP and UDP', async () => {
  const drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const granted = await lab.start({ network: 'plain', name: 'held', labels: MINE });
  const grants: string[] = [];
  for (const entry of PEERS) {
    const { status, body } = await drawbridge.request('POST', '/v1/containers/held/grants', { entry });
    expect(status).toBe(201);
    grants.push((JSON.parse(body) as { id: string }).id);
  }
  await granted.remove(); // grants belong to the name
  const free = await Flows.start(lab, { network: 'plain', labels: { 'drawbridge.mode': 'off' } }, PEERS);
  const held = await Flows.start(lab, { network: 'plain', name: 'held', labels: MINE }, PEERS);
  const { ip4, ip6 } = await held.container.addresses();
  await Promise.all([free.moving(), held.moving()]);

  const from = Date.now();
  const revoke = (id: string) => drawbridge.request('DELETE', `/v1/containers/held/grants/${id}`);
  for (const { status } of await Promise.all(grants.map(revoke))) expect(status).toBeLessThan(300);
  await free.moving(from + CUT_MS + WATCH_MS);
  for (const s of shown) s.control();

  expect(await held.movedAfter(from + CUT_MS)).toEqual([]);
  // the host itself answers stragglers with ICMP errors once it has no flow for them
  const of = { src: [ip4, ip6], dst: PEERS, proto: ['tcp', 'udp'], since: from + CUT_MS };
  expect(await lab.sniffer.count({ direction: 'out', ...of })).toBe(0);
  for (const s of shown) s.held();
});
