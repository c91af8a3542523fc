/** Images are built as before: what build steps may reach is set once for all of them, and observed unless set. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { ride } from './unattributed.js';

/** Whose steps reach which site: BuildKit's belong to no container, the classic builder's are containers without labels. */
const STEP = { name: 'step.build.test', at: '93.184.70.1' };
const CONTAINER = { name: 'container.build.test', at: '93.184.70.2' };
const DENIED = { name: 'denied.build.test', at: '93.184.70.9' };
const SITES = [STEP, CONTAINER, DENIED];
const NAMES = SITES.map((s) => s.name);
const BUILDERS = [
  ['BuildKit', '1', STEP, CONTAINER],
  ['the classic builder', '0', CONTAINER, STEP],
] as const;
const LISTS = { 'step.yaml': `allow: [${STEP.name}]\n`, 'container.yaml': `allow: [${CONTAINER.name}]\n` };

const RIDING = {
  id: 'unattributed-rides',
  title: "an unattributed veth goes on with a container's flow, from its address",
  families: ['v4', 'v6'],
  stoppedBy:
    'an unattributed veth may not use an address that is bound to a container, while its mode is enforce',
} as const;
const shown = shownHere(RIDING);
const LEFT = {
  id: 'unattributed-rides-departed',
  title: "an unattributed veth goes on with a flow of a container that has gone, from that one's address",
  families: ['v4', 'v6'],
  stoppedBy: 'the flows of a container end when its veth goes',
} as const;
const left = shownHere(LEFT);
const GOALS = { v4: '93.184.71.', v6: '2600:9000:71::' } as const;
/** Families in which its text arrives at the other end of an observed container's flow. */
interface Rides {
  readonly beside: readonly string[];
  /** After that container. */
  readonly after: readonly string[];
}
async function rides(side: 1 | 2): Promise<Rides> {
  const victim = await lab.start({ name: `victim-${side}`, labels: { 'drawbridge.mode': 'observe' } });
  const { ip4, ip6, gateway } = await victim.addresses();
  const flows = RIDING.families.map((family) => {
    const src = family === 'v4' ? ip4 : ip6;
    return { family, src, sport: 7100 + side, to: `${GOALS[family]}${side}`, dport: 7101 } as const;
  });
  for (const f of flows) await victim.probe('udp', f.to, f.dport, 'own', '--local-port', f.sport);
  const arrived = async (text: string): Promise<string[]> => {
    await Promise.all(flows.map((f) => ride(lab, gateway, { ...f, text })));
    const out = { direction: 'out', payloadIncludes: text } as const;
    const counts = await Promise.all(flows.map((f) => lab.sniffer.count({ ...out, dst: f.to })));
    return flows.filter((_, i) => (counts[i] ?? 0) > 0).map((f) => f.family);
  };
  const beside = await arrived('rider');
  await victim.remove();
  return { beside, after: await arrived('heir') };
}

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set(Object.fromEntries(SITES.map((s) => [s.name, { A: [s.at], ttl: 1 }])));
  expect(await rides(1)).toEqual({ beside: RIDING.families, after: RIDING.families });
  shown.control();
  left.control();
  drawbridge = lab.drawbridge({ lists: LISTS });
  await drawbridge.ready();
});
afterAll(() => lab?.down());

/** What the RUN step of a build printed, read from the image that it made. */
async function step(script: string, buildkit: string, ...args: string[]): Promise<string> {
  const input = `FROM busybox:lab\nRUN { ${script}; } >/printed 2>&1; true\n`;
  const env = { ...lab.view.env, DOCKER_BUILDKIT: buildkit };
  await lab.dockerResult(['build', '--no-cache', '-t', 'made', ...args, '-'], { input, env });
  output = (await lab.run({ image: 'made', node: false, network: 'none', cmd: ['cat', '/printed'] })).stdout;
  return output;
}
/** Which names a RUN step reached. */
async function built(buildkit: string, ...args: string[]): Promise<string[]> {
  const tries = NAMES.map((name) => `if wget -q -T 8 -O /dev/null http://${name}/; then echo ${name}; fi`);
  const printed = await step(tries.join('; '), buildkit, ...args);
  return printed.split('\n').filter((l) => NAMES.includes(l));
}
/** For a failure: what the step of the newest build printed, and the end of the log. */
let output = '';
const why = (): string => `${output}\n${drawbridge.logs().slice(-2_000)}`;
async function configure(config: Readonly<Record<string, unknown>>): Promise<void> {
  drawbridge.configure(config);
  await drawbridge.restart();
}

it('a step whose first packet is IPv6 resolves names over IPv4, the first time that its address is seen', async () => {
  const [resolver] = lab.addresses.authority4;
  const first = `wget -q -T 2 -O /dev/null http://[${GOALS.v6}9]/`;
  const printed = await step(`${first}; nslookup -type=a ${STEP.name} ${resolver}`, '1');
  expect(printed, why()).toContain(STEP.at);
});
it.each(BUILDERS)('unless set otherwise its steps are observed: %s', async (_, buildkit) => {
  const reached = await built(buildkit);
  expect(reached, why()).toEqual(NAMES);
});
it('a build in the host’s network', async () => {
  expect(await built('1', '--network', 'host')).toEqual(NAMES);
});

describe('with unattributed and default enforced', () => {
  beforeAll(() =>
    configure({
      default: 'enforce',
      baseline: ['container'],
      unattributed: { mode: 'enforce', lists: ['step'] },
    }),
  );
  it(`${RIDING.title}, or has gone: it does not`, async () => {
    expect(await rides(2)).toEqual({ beside: [], after: [] });
    shown.held();
    left.held();
  });
  it.each(BUILDERS)('steps reach their lists and nothing else: %s', async (_, buildkit, own, other) => {
    await lab.sniffer.clear();
    await lab.dns.clearLog();
    const reached = await built(buildkit);
    expect(reached, why()).toEqual([own.name]);
    expect(await lab.sniffer.count({ direction: 'out', dst: [DENIED.at, other.at] })).toBe(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: own.at })).toBeGreaterThan(0);
    const asked = (await lab.dns.queries('build.test')).map((q) => q.name);
    expect([...new Set(asked)]).toEqual([own.name]);
  });
});
