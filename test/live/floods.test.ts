/** One container floods; another's permitted connections, names and denials go on. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BOUNDS } from '../../src/ruleset/verdict-chains.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { flood, flooder } from './flood.js';

const PEER = '93.184.1.1';
const CALM = { 'drawbridge.allow': `${PEER}:80, calm.test` };
const STORM = { 'drawbridge.allow': '93.184.60.0/24, *.storm.test' };
const SECONDS = Number(process.env.FLOOD_SECONDS ?? 6);

/** A slow host floods again and again; an entry of conntrack lasts half a minute at least. */
const FLOOD_PATIENCE_MS = 90_000;

let lab: Lab;
let drawbridge: Drawbridge;
let calm: Container;
let storm: Container;
/** In mode off: nothing bounds it. It may forge, too. */
let wild: Container;
let seen: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.dns.set({ 'calm.test': { A: [PEER], ttl: 1 } });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  calm = await lab.start({ name: 'calm', labels: CALM });
  [storm, wild, seen] = await Promise.all([
    flooder(lab, { name: 'storm', labels: STORM }),
    flooder(lab, { name: 'wild', labels: { 'drawbridge.mode': 'off' } }),
    flooder(lab, { name: 'seen' }),
  ]);
  for (const c of [storm, seen]) {
    const inside = ['nsenter', `--net=/proc/${await c.pid()}/ns/net`, '--'];
    // every address of 10.99 is its own: it may send from any
    await lab.inHost([...inside, 'ip', 'route', 'add', 'local', '10.99.0.0/16', 'dev', 'lo'], {
      check: true,
    });
  }
});
afterAll(() => lab?.down());

const tracked = async (c: Container): Promise<number> => {
  const { ip4 } = await c.addresses();
  const { stdout } = await lab.inHost(['conntrack', '-L', '-s', ip4]);
  return stdout.split('\n').filter((l) => l !== '').length;
};
/** Whether the container has so many flows that it may open none. */
const isFull = async (c: Container): Promise<boolean> => {
  const { ip4 } = await c.addresses();
  return (await lab.inHost(['ipset', 'test', 'DB-full4', ip4])).code === 0;
};
/** Floods a /24 with new flows, at least once, until the condition holds. */
const floodUntil = (c: Container, prefix: string, isMet: () => Promise<boolean>): Promise<unknown> =>
  waitFor(
    `the end of the flood of ${prefix}`,
    async () => {
      await flood(c, 'flows', prefix, SECONDS, '0.0.0.0');
      return isMet();
    },
    FLOOD_PATIENCE_MS,
  );
interface Denied {
  readonly address: string;
  readonly name: string | null;
}
const denied = async (name: string): Promise<Denied[]> => {
  const { body } = await drawbridge.get(`/v1/flows?container=${name}&verdict=denied&limit=1000`);
  return (JSON.parse(body) as { items: Denied[] }).items;
};

/** While it lasts: a permitted address, a permitted name, and a denial that is seen; each at its first try. */
async function goesOn(lasting: Promise<unknown>, forbidden: string): Promise<void> {
  let over = false;
  const end = lasting.finally(() => {
    over = true;
  });
  let rounds = 0;
  do {
    const [http, name, no] = [
      await calm.probe('http', `http://${PEER}/`),
      await calm.probe('dns', '8.8.8.8', 'calm.test', 'A'),
      await calm.probe('tcp', forbidden, 443),
    ];
    expect(http).toMatchObject({ ok: true });
    expect(name).toMatchObject({ addresses: [PEER] });
    expect(no).toMatchObject({ code: 'ECONNREFUSED' });
    rounds++;
  } while (!over);
  await end;
  expect(rounds).toBeGreaterThan(0);
  await waitFor('the denial', async () => (await denied('calm')).some((d) => d.address === forbidden));
}

describe('a flood of new flows', () => {
  it('to permitted addresses: takes its share of the connection table, and no more', async () => {
    // how many flows a second opens depends on the host: each flood goes on until it has opened enough
    const filled = floodUntil(storm, '93.184.60', () => isFull(storm));
    await goesOn(filled, '93.184.9.1');
    const held = await tracked(storm);
    let unbounded = 0;
    await floodUntil(wild, '93.184.61', async () => {
      unbounded = await tracked(wild);
      return unbounded > BOUNDS.open + 2_000;
    });
    console.info(`${held} tracked; without bounds: ${unbounded}`);
    expect(held).toBeLessThanOrEqual(BOUNDS.open + 500);
    expect(unbounded).toBeGreaterThan(BOUNDS.open + 2_000);
  });

  it('it opens nothing more while it has too many, and connects again when they have ended', async () => {
    const { ip4 } = await storm.addresses();
    if (!(await isFull(storm))) await floodUntil(storm, '93.184.60', () => isFull(storm));
    expect(await isFull(storm)).toBe(true);
    expect(await storm.probe('tcp', '93.184.60.9', 80)).toMatchObject({ ok: false });
    await lab.inHost(['conntrack', '-D', '-s', ip4]);
    await waitFor('a new connection', async () => (await storm.probe('tcp', '93.184.60.9', 80)).ok === true);
    expect(await isFull(storm)).toBe(false);
  });

  it('to forbidden addresses: its log has a bound, others are logged', async () => {
    const began = Date.now();
    await goesOn(flood<{ sent: number }>(storm, 'flows', '93.184.70', SECONDS, '0.0.0.0'), '93.184.9.2');
    // of this flood alone: those of the tests before are recorded, too
    const logged = (await denied('storm')).filter((d) => d.address.startsWith('93.184.70.')).length;
    expect(logged).toBeGreaterThan(0);
    // the limit of the log (ruleset/verdict-chains.ts)
    expect(logged).toBeLessThanOrEqual(60 + 20 * Math.ceil((Date.now() - began) / 1_000));
  });

  it('from forged sources: of an enforced container dropped at its port, of an observed one logged within its share', async () => {
    const both = [storm, seen].map((c) => flood(c, 'flows', '93.184.60', SECONDS, '10.99'));
    await goesOn(Promise.all(both), '93.184.9.3');
    expect(await lab.sniffer.count({ direction: 'out', src: '10.99.0.1' })).toBe(0);
  });
});

describe('a flood at the resolver', () => {
  it('of random names, permitted and not', async () => {
    const names = Promise.all([
      flood(storm, 'names', '8.8.8.8', SECONDS, 'storm.test'),
      flood(seen, 'names', '8.8.8.8', SECONDS, 'nobody.test'),
    ]);
    await goesOn(names, '93.184.9.4');
  });

  it('of TCP connections that never finish a question', async () => {
    const slow = flood<{ opened: number; closed: number }>(storm, 'slow', '8.8.8.8', 300, SECONDS);
    let asked = 0;
    const end = slow.then(() => {
      asked = -1;
    });
    do {
      const r = await calm.probe('dns', '8.8.8.8', 'calm.test', 'A', 'tcp');
      expect(r).toMatchObject({ addresses: [PEER] });
    } while (asked === 0);
    await end;
    expect((await slow).closed).toBeGreaterThan(200);
  });
});

/** Sends from a veth on docker0 that is no container's, with a process of its own. */
async function strange(name: string, seconds: number): Promise<unknown> {
  const { gateway } = await calm.addresses();
  const near = gateway.split('.').slice(0, 2).join('.');
  const inside = [
    `ip link set lo up; ip link set s0 up; ip addr add ${near}.200.1/16 dev s0`,
    `ip route add local 10.99.0.0/16 dev lo; ip route add default via ${gateway}`,
    `${process.execPath} ${import.meta.dirname}/flood.mjs flows 93.184.60 ${seconds} 10.99`,
  ].join('; ');
  const script = [
    `ip netns add ${name}-$$ && trap "ip netns del ${name}-$$" EXIT`,
    `ip link add ${name} type veth peer name s0 && ip link set s0 netns ${name}-$$`,
    `ip link set ${name} master docker0 up`,
    `ip netns exec ${name}-$$ sh -c "${inside}"`,
  ].join('\n');
  return lab.inHost(['bash', '-c', script], { check: true });
}
/** Most packets that waited for a verdict until `end`. */
async function mostWaiting(end: Promise<unknown>): Promise<number> {
  let over = false;
  const ended = end.finally(() => {
    over = true;
  });
  let most = 0;
  while (!over) {
    const { stdout } = await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue']);
    most = Math.max(most, Number(stdout.trim().split(/\s+/)[2] ?? 0));
  }
  await ended;
  return most;
}

/** Handle of the rule that bounds what may wait of a port; undefined: it is missing. */
async function boundOfHeld(): Promise<string | undefined> {
  const listed = await lab.inHost(['nft', '-a', 'list', 'chain', 'bridge', 'drawbridge', 'ports']);
  return /@holding .* # handle (\d+)/.exec(listed.stdout)?.[1];
}

describe('a flood of a port that nobody knows', () => {
  it('waits within its share by the port, whatever addresses it forges, while nobody gives verdicts', async () => {
    drawbridge.kill('SIGSTOP');
    try {
      const held = await mostWaiting(strange('strange1', 3));
      const handle = (await boundOfHeld()) ?? '';
      const rule = ['bridge', 'drawbridge', 'ports', 'handle', handle];
      await lab.inHost(['nft', 'delete', 'rule', ...rule], { check: true });
      const unbounded = await mostWaiting(strange('strange2', 3));
      console.info(`at most ${held} packets waited; without the bound: ${unbounded}`);
      expect(held).toBeGreaterThan(300);
      expect(held).toBeLessThan(2_000);
      expect(unbounded).toBeGreaterThan(3_000);
    } finally {
      drawbridge.kill('SIGCONT');
    }
    await drawbridge.ready();
    await waitFor('the bound to be laid again', async () => (await boundOfHeld()) !== undefined);
  });

  it('does not keep new containers from their first packet', async () => {
    let over = false;
    const flooding = strange('strange3', SECONDS).finally(() => {
      over = true;
    });
    do {
      const r = await lab.runProbe({ labels: CALM }, 'tcp', PEER, 80);
      expect(r, JSON.stringify(r)).toMatchObject({ ok: true });
    } while (!over);
    await flooding;
  });
});
