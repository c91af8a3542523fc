/** Packets of real containers are handed past their bridge while nothing else decides about them, and the policy holds all the same. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const PERMITTED = '93.184.1.1';
const FORBIDDEN = '93.184.1.2';
const ALLOW = { 'drawbridge.allow': `${PERMITTED}:80` };
/** A page takes some packets; the bridge counts those of ARP in any case. */
const FEW = 3;
const SOON_MS = 10_000;

let lab: Lab;
let drawbridge: Drawbridge;
let container: Container;
let limited: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  container = await lab.start({ labels: ALLOW });
  limited = await lab.start({ labels: { ...ALLOW, 'drawbridge.limit': 'rate=1mbit' } });
}, 120_000);
afterAll(() => lab?.down());

const reaches = async (address: string, from = container): Promise<boolean> =>
  (await from.exec(['wget', '-q', '-T', '1', '-O', '/dev/null', `http://${address}/`])).code === 0;

/** Several connections at each moment, for as long as a restart takes. Prints what each has come to. */
const ASKING = `for n in $(seq 1 100); do
  (wget -T 8 -O /dev/null http://${PERMITTED}/ 2>&1 && echo page) & sleep 0.05; done; wait`;

interface Link {
  readonly stats64: { readonly rx: { readonly packets: number } };
}
/** What the bridge received from its ports: it does not count what is handed to it. */
async function received(): Promise<number> {
  const { stdout } = await lab.inHost(['ip', '-s', '-j', 'link', 'show', 'docker0'], { check: true });
  return (JSON.parse(stdout) as Link[])[0]?.stats64.rx.packets ?? 0;
}
/** Whether a page that is permitted is fetched past the bridge. */
async function isHanded(from = container): Promise<boolean> {
  const before = await received();
  expect(await reaches(PERMITTED, from)).toBe(true);
  return (await received()) - before < FEW;
}
/** Between two pages the veth rests for longer than two checks, between which it gets the program. */
const becomes = (wanted: boolean): Promise<unknown> =>
  waitFor(
    `packets ${wanted ? '' : 'not '}to be handed over`,
    async () => (await isHanded()) === wanted,
    SOON_MS,
    2_000,
  );
async function isEnforced(): Promise<void> {
  const after = await lab.sniffer.settle();
  expect(await reaches(FORBIDDEN)).toBe(false);
  await lab.sniffer.settle();
  expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN, after })).toBe(0);
}

it('what a container sends is handed over, and its policy holds', async () => {
  await becomes(true);
  await isEnforced();
  expect(drawbridge.logs()).toContain('may be handed past their bridge');
});

it('a container with a limit takes the rules that limit it', async () => {
  await becomes(true);
  expect(await isHanded(limited)).toBe(false);
});

it('a rule of another program for frames has its effect at once and for as long as it is there', async () => {
  await becomes(true);
  const table = `table bridge other {
    chain c {
      type filter hook prerouting priority 0; policy accept;
      ip daddr ${PERMITTED} drop
    }
  }`;
  await lab.inHost(['nft', table], { check: true });
  await waitFor('the rule to have its effect', async () => !(await reaches(PERMITTED)), SOON_MS, 50);
  expect(await reaches(PERMITTED)).toBe(false);
  expect(drawbridge.logs()).toContain('the table bridge other has rules for frames');
  await lab.inHost(['nft', 'delete', 'table', 'bridge', 'other'], { check: true });
  await waitFor('the way to be open', () => reaches(PERMITTED), SOON_MS, 50);
  await becomes(true);
});

it('after a crash it ends by itself, the rules stay in force, and the next start hands packets over again', async () => {
  await becomes(true);
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  await becomes(false);
  await isEnforced();
  drawbridge.start();
  await drawbridge.ready();
  await becomes(true);
  await isEnforced();
});

it('a start that finds the table of the bridge gone refuses nothing that is permitted', async () => {
  await becomes(true);
  const asking = container.exec(['sh', '-c', ASKING]);
  await lab.inHost(['nft', 'delete', 'table', 'bridge', 'drawbridge'], { check: true });
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  drawbridge.start();
  await drawbridge.ready();
  const { stdout } = await asking;
  expect(stdout.match(/page/g)?.length).toBeGreaterThan(0);
  expect(stdout).not.toContain('refused');
  expect(drawbridge.logs()).toContain('the closed base is installed');
});

it('a service that is stopped ends it', async () => {
  await becomes(true);
  await drawbridge.stop();
  expect(await isHanded()).toBe(false);
  await isEnforced();
  drawbridge.start();
  await drawbridge.ready();
  await becomes(true);
});

it('a teardown leaves nothing of it', async () => {
  const shares = async (): Promise<boolean> =>
    (await lab.inHost(['tc', 'qdisc', 'show'], { check: true })).stdout.includes('ingress_block');
  expect(await shares()).toBe(true);
  await drawbridge.stop();
  expect((await drawbridge.cli(['teardown'])).code).toBe(0);
  expect(await shares()).toBe(false);
  expect(await reaches(FORBIDDEN), 'control: without Drawbridge it is reached').toBe(true);
});

it('with kernel.pastBridge: false all packets take the rules', async () => {
  drawbridge = lab.drawbridge({ config: { kernel: { pastBridge: false } } });
  await drawbridge.ready();
  await waitFor('the reason', () => drawbridge.logs().includes('kernel.pastBridge is off'), SOON_MS);
  expect(await isHanded()).toBe(false);
  await isEnforced();
});
