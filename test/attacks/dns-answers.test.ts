/** Answers that lead inside, or to what is over, or to too much: what a permitted name says opens only what may be opened. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Container } from '../lab/container.js';
import { waitFor } from '../lab/process.js';
import { ADDRESSES } from '../lab/topology.js';
import { ask } from './dns.js';
import { ALLOW, BOTH, inside, lying, name, PORT, pointing, type, ZONE } from './lies.js';
import { heard, listen, spray } from './listener.js';
import { type Attempt, attackSuite, PROGRAMS, seen, type Technique } from './technique.js';

/** Docker's network of both attackers has public subnets; `any` is permitted on this port. */
const PUBLIC = { name: 'public', subnets: ['45.45.0.0/24', '2a0b:45::/64'] } as const;
const ANY_PORT = 5002;
/** Private space that an address entry permits, on this port alone. */
const ENTRY_PORT = 5003;
const ENTRIES = `10.200.7.0/24:${ENTRY_PORT}/udp, [fdc0:200:7::/64]:${ENTRY_PORT}/udp`;
/** An address there that only this attempt uses. */
const covered = (a: Attempt): string => {
  const last = a.target.split(/[.:]/).at(-1) ?? '';
  return a.family === 'v4' ? `10.200.7.${last}` : `fdc0:200:7::${last}`;
};
const FORGOTTEN = 'at most 1,000 addresses a name: the oldest are forgotten';
const NETWORKS = "Docker networks' subnets are inside, whatever space they are from";
const REBINDING = 'addresses inside are refused in answers to public names';
/** Of one name, in answers of 250. */
const floodOf = (answers: number): readonly (readonly string[])[] =>
  Array.from({ length: answers }, (_, n) =>
    Array.from({ length: 250 }, (_, i) => `93.184.${10 + n}.${1 + i}`),
  );
const MOST = 1000;

let host: Awaited<ReturnType<typeof listen>>;
let other: Awaited<ReturnType<typeof listen>>;
/** A neighbour of the attackers, whose addresses are public. */
let neighbour: Awaited<ReturnType<typeof listen>>;
const neighbourAt = async (a: Attempt): Promise<string> =>
  (await neighbour.addresses())[a.family === 'v4' ? 'ip4' : 'ip6'];
const HOST = { v4: '192.0.2.2', v6: '2001:db8:fff0::2' } as const;

attackSuite(
  'DNS answers',
  {
    attacker: {
      network: PUBLIC.name,
      labels: { 'drawbridge.allow': `${ALLOW}, any:${ANY_PORT}/udp, ${ENTRIES}` },
    },
    drawbridge: { config: { dns: { minTtl: '1s', grace: '1s' } } },
    prepare: async (lab) => {
      const subnets = PUBLIC.subnets.flatMap((subnet) => ['--subnet', subnet]);
      await lab.docker('network', 'create', '--ipv6', ...subnets, PUBLIC.name);
      host = await listen(lab, { network: 'host', ports: [PORT] });
      neighbour = await listen(lab, { network: PUBLIC.name, ports: [PORT, ANY_PORT] });
      const labels = { 'drawbridge.allow': ALLOW };
      other = await lab.start({ name: 'other', labels, mounts: [PROGRAMS] });
    },
    enforced: async (lab) => {
      await lab.dns.set({ [`good.${ZONE}`]: { A: ['93.184.90.1'], AAAA: ['2600:9000:90::1'] } });
      // what is told for a permitted name is opened: that all below is held proves something
      await waitFor('a permitted name', async () => (await other.probe('udp', `good.${ZONE}`, PORT)).ok);
    },
  },
  [
    {
      id: 'answers-private',
      title: 'rebinding to the private network',
      stoppedBy: REBINDING,
      ...lying({ rule: (a) => pointing(a, inside(a)), aim: inside }),
    },
    {
      id: 'answers-flip',
      title: 'rebinding by TTL 0: a public address first, a private one next',
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => {
          const pool = [a.family === 'v4' ? '93.184.90.2' : '2600:9000:90::2', inside(a)];
          return { ...(a.family === 'v4' ? { A: pool } : { AAAA: pool }), rotate: 1, ttl: 0 };
        },
        aim: inside,
        times: 4,
      }),
    },
    {
      id: 'answers-among',
      title: 'rebinding with a private address among public ones',
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => {
          const pool = [a.family === 'v4' ? '93.184.90.3' : '2600:9000:90::3', inside(a)];
          return a.family === 'v4' ? { A: pool } : { AAAA: pool };
        },
        aim: inside,
      }),
    },
    {
      id: 'answers-alias-private',
      title: 'rebinding behind an alias (CNAME) of another zone',
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => ({
          CNAME: `${a.tag}.elsewhere.test`,
        }),
        elsewhere: (a) => pointing(a, inside(a)),
        aim: inside,
      }),
    },
    {
      id: 'answers-link-local',
      title: 'rebinding to a link-local address',
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => pointing(a, a.target.replace('93.184', '169.254')),
        aim: (a) => a.target.replace('93.184', '169.254'),
        families: ['v4'],
      }),
    },
    {
      id: 'answers-metadata',
      title: "rebinding to the cloud's metadata service",
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => pointing(a, a.family === 'v4' ? '169.254.169.254' : 'fd00:ec2::254'),
        aim: (a) => (a.family === 'v4' ? '169.254.169.254' : 'fd00:ec2::254'),
      }),
    },
    {
      id: 'answers-mapped',
      title: 'a private IPv4 address written as IPv6 (::ffff:…) in an AAAA answer',
      stoppedBy: 'IPv4-mapped addresses are never returned',
      ...lying({
        rule: (a) => ({ AAAA: [`::ffff:${inside(a)}`] }),
        aim: (a) => `::ffff:${inside(a)}`,
        query: () => ({ type: 28 }),
        families: ['v4'],
      }),
    },
    {
      id: 'answers-translated',
      title: 'a private IPv4 address within a translator prefix (64:ff9b::/96) in an AAAA answer',
      stoppedBy: REBINDING,
      ...lying({
        rule: (a) => ({ AAAA: [translated(a)] }),
        aim: translated,
        families: ['v6'],
      }),
    },
    {
      id: 'answers-host',
      title: "rebinding to the host's own public address",
      stoppedBy: REBINDING,
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, HOST[a.family]) });
        await ask(a, { name: name(a), type: type(a) });
        await spray(a, [HOST[a.family]], PORT);
      },
      reached: (a) => heard(a, host),
    },
    {
      id: 'answers-neighbour-public',
      title: 'rebinding to a neighbour on a Docker network with public addresses',
      stoppedBy: NETWORKS,
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, await neighbourAt(a)) });
        await ask(a, { name: name(a), type: type(a) });
        await spray(a, [await neighbourAt(a)], PORT);
      },
      reached: (a) => heard(a, neighbour),
    },
    {
      id: 'any-neighbour-public',
      title: '"any" and a neighbour on a Docker network with public addresses',
      stoppedBy: NETWORKS,
      families: BOTH,
      attack: async (a) => {
        await spray(a, [a.target, await neighbourAt(a)], ANY_PORT);
        // what "any" stands for: the attempt below is not held by a missing entry
        await waitFor('a public address', () => seen(a, { dst: a.target, dport: ANY_PORT }));
      },
      reached: (a) => heard(a, neighbour),
    },
    {
      id: 'answers-entry-ports',
      title: 'a name’s ports on an address that has an entry of its own with other ports',
      stoppedBy: 'an address entry lets a private answer pass, and opens its own ports alone',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, covered(a)) });
        const { replies } = await ask(a, { name: name(a), type: type(a) });
        if (!replies.some((r) => r.addresses.length > 0)) throw new Error('the answer was refused');
        await spray(a, [covered(a)], ENTRY_PORT);
        await waitFor("the entry's own port", () => seen(a, { dst: covered(a), dport: ENTRY_PORT }));
        await spray(a, [covered(a)], PORT);
      },
      reached: (a) => seen(a, { dst: covered(a), dport: PORT }),
    },
    {
      id: 'answers-stale',
      title: 'an address that a name had, after its TTL and grace',
      stoppedBy: 'learned addresses end with TTL and grace, in the kernel',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: { ...pointing(a, a.target), ttl: 1 } });
        await ask(a, { name: name(a), type: type(a) });
        const inKernel = async (): Promise<boolean> =>
          (await a.lab.inHost(['ipset', 'save'])).stdout.includes(`${a.target} `);
        if (a.side === 'held') await waitFor('it to be over', async () => !(await inKernel()), 20_000, 200);
        await spray(a, [a.target], PORT);
      },
      reached: (a) => seen(a, { dst: a.target, dport: PORT }),
    },
    {
      id: 'answers-told-another',
      title: 'an address that DNS returned to another container, for a name that both may resolve',
      stoppedBy: 'each container has its own learned addresses',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, a.target) });
        await ask({ ...a, attacker: other }, { name: name(a), type: type(a) });
        await spray(a, [a.target], PORT);
      },
      reached: (a) => seen(a, { dst: a.target, dport: PORT, payloadIncludes: a.tag }),
    },
    {
      id: 'answers-before-enforced',
      title: 'an address from a resolver of its own, asked while it was observed, once it is enforced',
      stoppedBy: 'answers of other resolvers are recorded only to show names, and permit nothing',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: { ...pointing(a, a.target), notAt: UPSTREAMS } });
        const attacker = a.side === 'held' ? await observed(a) : a.attacker;
        await ask({ ...a, attacker }, { name: name(a), type: type(a) });
        if (a.side === 'held') await enforce(a, attacker);
        await spray({ ...a, attacker }, [a.target], PORT);
        if (attacker !== a.attacker) await attacker.remove();
      },
      reached: (a) => seen(a, { dst: a.target, dport: PORT, payloadIncludes: a.tag }),
    },
    {
      id: 'answers-other-port',
      title: 'another port of a permitted name’s address',
      stoppedBy: 'a name opens its addresses on its own ports only',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, a.target) });
        await ask(a, { name: name(a), type: type(a) });
        await spray(a, [a.target], PORT + 1);
      },
      reached: (a) => seen(a, { dst: a.target, dport: PORT + 1 }),
    },
    {
      id: 'answers-flood',
      title: '5,000 addresses for one name',
      stoppedBy: FORGOTTEN,
      // none of them ends meanwhile
      ...flooding({ answers: 20, ttl: 60 }),
    },
    {
      id: 'answers-flood-ending',
      title: '2,000 addresses for one name, of which some end while further ones come',
      stoppedBy: FORGOTTEN,
      // each is permitted for two to three seconds: a fifth answer comes when the first one is about to end
      ...flooding({ answers: 8, ttl: 0, everyMs: 575 }),
    },
    {
      id: 'answers-shared-address',
      title: 'another site on the address of a permitted name',
      stoppedBy: '-',
      notStopped:
        'its address is permitted: a connection opens. Where names of connections are checked, it ends at the first name that no entry permits',
      families: BOTH,
      attack: async (a) => {
        await a.lab.dns.set({ [name(a)]: pointing(a, a.target) });
        await ask(a, { name: name(a), type: type(a) });
        await a.attacker.probe('tcp', a.target, PORT, `Host: denied.test ${a.tag}`);
      },
      reached: (a) => seen(a, { dst: a.target, dport: PORT, flags: 'S' }),
    },
  ],
);

const sentOf = async (a: Attempt) =>
  a.lab.sniffer.packets({ direction: 'out', dport: PORT, payloadIncludes: a.tag });
/**
 * Each answer has new addresses. After the last answer a datagram is sent to every address: no further answer can permit addresses then,
 * so that all addresses that are reached were permitted at the same time. The name is an alias with a TTL of 0, which no resolver caches.
 */
function flooding({
  answers,
  ttl,
  everyMs = 0,
}: {
  readonly answers: number;
  readonly ttl: number;
  readonly everyMs?: number;
}): Omit<Technique, 'id' | 'title' | 'stoppedBy'> {
  const flood = floodOf(answers);
  return {
    families: ['v4'],
    alone: true,
    attack: async (a) => {
      // The ledger rounds ends up to whole seconds: an answer at 875 ms has the shortest time there.
      const began = everyMs > 0 ? Math.ceil(Date.now() / 1000) * 1000 + 875 : Date.now();
      for (const [n, addresses] of flood.entries()) {
        await sleep(Math.max(0, began + n * everyMs - Date.now()));
        const end = `${n}.${name(a)}`;
        await a.lab.dns.set({ [name(a)]: { CNAME: end, ttl: 0 }, [end]: { A: addresses, ttl } });
        const isAnswered = async (): Promise<boolean> => {
          const { replies } = await ask(a, { name: name(a), proto: 'tcp', wait: 20_000 });
          return replies.some((r) => addresses.every((address) => r.addresses.includes(address)));
        };
        await waitFor(`the addresses of answer ${n}`, isAnswered, 60_000);
      }
      await spray(a, flood.flat(), PORT);
      const newest = flood.at(-1)?.at(-1) ?? '';
      // the newest are permitted: that the oldest are held proves something
      if (ttl > 0) await waitFor('the newest address', () => seen(a, { dst: newest, dport: PORT }));
    },
    reached: async (a) => new Set((await sentOf(a)).map((p) => p.dst)).size > MOST,
    evidence: async (a) => {
      const sent = await sentOf(a);
      const clock = (ms: number): string => new Date(ms).toISOString().slice(11, 23);
      const shown = flood.flatMap((addresses, n) => {
        const times = sent.filter((p) => addresses.includes(p.dst)).map((p) => p.time);
        if (times.length === 0) return [];
        return [
          `${times.length} of answer ${n} at ${clock(Math.min(...times))}–${clock(Math.max(...times))}`,
        ];
      });
      const reached = new Set(sent.map((p) => p.dst)).size;
      return `${reached} of ${flood.flat().length} addresses were reached: ${shown.join(', ')}`;
    },
  };
}

/** Those of the host, which Drawbridge asks. */
const UPSTREAMS = [ADDRESSES.authority4[0], ADDRESSES.authority6[0]];
/** A container of the same policy that nothing is denied to, yet. */
const observed = (a: Attempt): Promise<Container> =>
  a.lab.start({
    name: `observed-${a.family}`,
    labels: { 'drawbridge.allow': ALLOW, 'drawbridge.mode': 'observe' },
    mounts: [PROGRAMS],
  });
/** The answer has come, so that it is recorded: no set may hold it, nor later. */
async function enforce(a: Attempt, c: Container): Promise<void> {
  const sets = async (): Promise<readonly string[]> =>
    (await a.lab.inHost(['ipset', 'save'])).stdout.split('\n').filter((l) => l.includes(` ${a.target} `));
  const [held] = await sets();
  if (held !== undefined) throw new Error(`would be permitted: ${held}`);
  const answer = await a.drawbridge?.request('PUT', `/v1/containers/${c.name}/mode`, { mode: 'enforce' });
  if (answer?.status !== 200) throw new Error(`not enforced: ${answer?.status} ${answer?.body}`);
}

function translated(a: Attempt): string {
  const last = Number.parseInt(a.target.split(':').at(-1) ?? '0', 16);
  return `64:ff9b::ac8:${(0x6300 + last).toString(16)}`;
}
