/** In the host's network: to go on, from the same port, with a flow that somebody else has opened to the same place. */
import { join } from 'node:path';
import { waitFor } from '../lab/process.js';
import { ask } from './dns.js';
import { raw, trySending } from './raw.js';
import type { Family } from './report.js';
import {
  type Attempt,
  asked,
  attackSuite,
  PERMITTED,
  PROGRAMS,
  program,
  seen,
  type Technique,
} from './technique.js';
import { address, type Ends, ip, udp } from './wire.js';

const BOTH: readonly Family[] = ['v4', 'v6'];
const PORT = 7000;
const SLOW_MS = 1500;
const IDENTITY = 'an established flow skips evaluation only for the cgroup that its connmark names';
const SLOW = 'slow.example.com';

/** Below the kernel's own range and below Drawbridge's: nobody has one by chance. */
const ports = new Map<string, number>();
const portOf = (a: Attempt): number => {
  const port = ports.get(a.tag) ?? 7100 + ports.size;
  ports.set(a.tag, port);
  return port;
};
const RESOLVER = { v4: '8.8.8.8', v6: '2001:4860:4860::8888' } as const;

const datagrams = (a: Attempt, text: string, everyMs: number, forMs: number): string =>
  JSON.stringify({ to: [a.target], port: PORT, text, fromPort: portOf(a), everyMs, forMs });
/** A process of the host, which no policy is for. */
async function byHost(a: Attempt, file: string, ...words: readonly string[]): Promise<void> {
  const { stdout, stderr } = await a.lab.inHost([
    process.execPath,
    join(import.meta.dirname, 'programs', file),
    ...words,
  ]);
  if (!/"(sent|connected)":(true|[1-9])/.test(stdout)) throw new Error(`${file}: ${stdout}${stderr}`);
}
const ride = (a: Attempt): Promise<unknown> => program(a, 'spray.mjs', datagrams(a, a.tag, 100, 2000));
const told = (a: Attempt): Promise<boolean> => seen(a, { dst: a.target, payloadIncludes: a.tag });

const onDatagrams: Technique = {
  id: 'ride-host-udp',
  title: 'datagrams on a flow that a process of the host has just had',
  families: BOTH,
  stoppedBy: IDENTITY,
  attack: async (a) => {
    await byHost(a, 'spray.mjs', datagrams(a, 'of the host', 100, 500));
    await ride(a);
  },
  reached: told,
};
const meanwhile: Technique = {
  id: 'ride-host-udp-shared',
  title: 'the same while that process still speaks, by a port that both share',
  families: BOTH,
  stoppedBy: IDENTITY,
  attack: async (a) => {
    const how = { to: [a.target], port: PORT, fromPort: portOf(a), everyMs: 100, shared: true };
    const host = byHost(a, 'spray.mjs', JSON.stringify({ ...how, text: 'of the host', forMs: 3000 }));
    await program(a, 'spray.mjs', JSON.stringify({ ...how, text: a.tag, forMs: 2000 }));
    await host;
  },
  reached: told,
};
const ofContainer: Technique = {
  id: 'ride-container-udp',
  title: 'datagrams on a flow of another container of the host’s network, which may',
  families: BOTH,
  stoppedBy: IDENTITY,
  attack: async (a) => {
    const to = a.family === 'v4' ? a.target : `[${a.target}]`;
    const other = await a.lab.start({
      network: 'host',
      labels: { 'drawbridge.allow': `${to}:${PORT}/udp` },
      mounts: [PROGRAMS],
      cmd: ['node', '/attacks/spray.mjs', datagrams(a, 'of the other', 100, 60_000)],
    });
    await waitFor('the other one to reach what it may', () =>
      seen(a, { dst: a.target, payloadIncludes: 'of the other' }),
    );
    await other.remove();
    await ride(a);
  },
  reached: told,
};
const onQuestion: Technique = {
  id: 'ride-host-dns',
  title: 'a question on the flow of a question of the host’s, past the redirect',
  families: BOTH,
  stoppedBy: IDENTITY,
  attack: async (a) => {
    const server = RESOLVER[a.family];
    const common = { server, localPort: portOf(a) };
    await byHost(a, 'dns.mjs', JSON.stringify({ ...common, name: 'quick.example.com' }));
    await ask(a, { ...common, name: `${a.tag}.example.net` });
  },
  reached: asked,
};
const unanswered: Technique = {
  id: 'ride-host-unanswered',
  title: 'again and again on a question of the host’s that is not answered yet, until it is',
  families: BOTH,
  stoppedBy: 'a later sender on a flow does not change the flow’s mark',
  attack: async (a) => {
    const common = { server: RESOLVER[a.family], localPort: portOf(a) };
    await byHost(a, 'dns.mjs', JSON.stringify({ ...common, name: SLOW, wait: 100 }));
    const until = Date.now() + 2 * SLOW_MS;
    for (let n = 0; n < 50 && Date.now() < until; n++)
      await ask(a, { ...common, name: `${a.tag}.example.net`, wait: 50 } as Parameters<typeof ask>[1]);
  },
  reached: asked,
};
const befores = new Map<string, number>();
const onConnection: Technique = {
  id: 'ride-host-tcp',
  title: 'a SYN on a connection of a host process that ended without a FIN',
  families: BOTH,
  stoppedBy: IDENTITY,
  attack: async (a) => {
    await byHost(a, 'vanish.mjs', String(portOf(a)), a.target, '7');
    befores.set(a.tag, await a.lab.sniffer.settle());
    await a.attacker.exec([
      'node',
      '-e',
      `const s = require('node:net').connect({ host: '${a.target}', port: 7, localPort: ${portOf(a)} });
       s.on('error', () => undefined).on('connect', () => s.end('${a.tag}'));
       setTimeout(() => process.exit(), 1500);`,
    ]);
  },
  reached: (a) => seen(a, { dst: a.target, sport: portOf(a), after: befores.get(a.tag) ?? Infinity }),
};

const FORGED = { v4: '93.184.250.9', v6: '2600:9000:f09::9' } as const;
/** Permitted on PORT/udp. */
const OPEN = { v4: '93.184.2.1', v6: '2600:9000:2::1' } as const;
const ALLOW = [PERMITTED.v4, `[${PERMITTED.v6}]`]
  .map((at) => `${at}:${PERMITTED.port}`)
  .concat(`${OPEN.v4}:${PORT}/udp`, `[${OPEN.v6}]:${PORT}/udp`);
const NO_FORGED = 'in the host’s network a source that is not local is dropped before anything answers';
/** IPv6: by an ordinary socket, which needs no capability. IPv4: by a raw one. */
function fromElsewhere(a: Attempt, dst: string): Promise<readonly number[]> {
  const e: Ends = { src: FORGED[a.family], dst };
  if (a.family === 'v4') return trySending(a.attacker, [ip(e, 17, udp(e, PORT, PORT, a.tag))], { way: 'ip' });
  const [from, to] = [address(e.src), address(dst)].map((b) => b.toString('hex'));
  return trySending(a.attacker, [Buffer.from(a.tag)], {
    way: 'free',
    from: from ?? '',
    to: { address: to ?? '', port: PORT },
  });
}
const refused: Technique = {
  id: 'forged-host-refused',
  title: 'a datagram that is denied, from an address to which its refusal would go',
  families: BOTH,
  stoppedBy: NO_FORGED,
  attack: (a) => fromElsewhere(a, a.target),
  reached: (a) => seen(a, { payloadIncludes: a.tag }),
};
const answered: Technique = {
  id: 'forged-host-answered',
  title: 'a datagram to where it may send, from an address to which the answer would go',
  families: BOTH,
  stoppedBy: NO_FORGED,
  attack: (a) => fromElsewhere(a, OPEN[a.family]),
  reached: (a) => seen(a, { payloadIncludes: a.tag }),
};

attackSuite(
  'flows of others, in the host’s network',
  {
    attacker: raw({ network: 'host', labels: { 'drawbridge.allow': ALLOW.join(', ') } }),
    prepare: async (lab) => {
      await lab.dns.set({
        'quick.example.com': { A: ['93.184.9.1'] },
        [SLOW]: { A: ['93.184.9.2'], delayMs: SLOW_MS },
        '*.example.net': { A: ['93.184.9.3'] },
      });
    },
  },
  [onDatagrams, meanwhile, ofContainer, onQuestion, unanswered, onConnection, refused, answered],
);
