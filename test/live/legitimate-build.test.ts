/** Images are built as before: what build steps may reach is set once for all of them, and observed unless set. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

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

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set(Object.fromEntries(SITES.map((s) => [s.name, { A: [s.at], ttl: 1 }])));
  drawbridge = lab.drawbridge({ lists: LISTS });
  await drawbridge.ready();
});
afterAll(() => lab?.down());

/** What a RUN step of a build reached, as the image that came of it tells. */
async function built(buildkit: string, ...args: string[]): Promise<string[]> {
  const tries = NAMES.map((name) => `if wget -q -T 8 -O /dev/null http://${name}/; then echo ${name}; fi`);
  const input = `FROM busybox:lab\nRUN { ${tries.join('; ')}; } >/reached\n`;
  const env = { ...lab.view.env, DOCKER_BUILDKIT: buildkit };
  await lab.dockerResult(['build', '--no-cache', '-t', 'made', ...args, '-'], { input, env });
  const { stdout } = await lab.run({ image: 'made', node: false, network: 'none', cmd: ['cat', '/reached'] });
  return stdout.split('\n').filter((l) => l !== '');
}
async function configure(config: Readonly<Record<string, unknown>>): Promise<void> {
  drawbridge.configure(config);
  await drawbridge.restart();
}

it.each(BUILDERS)('unless set otherwise its steps are observed: %s', async (_, buildkit) => {
  expect(await built(buildkit)).toEqual(NAMES);
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
  it.each(BUILDERS)('steps reach their lists and nothing else: %s', async (_, buildkit, own, other) => {
    await lab.sniffer.clear();
    await lab.dns.clearLog();
    expect(await built(buildkit)).toEqual([own.name]);
    expect(await lab.sniffer.count({ direction: 'out', dst: [DENIED.at, other.at] })).toBe(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: own.at })).toBeGreaterThan(0);
    const asked = (await lab.dns.queries('build.test')).map((q) => q.name);
    expect([...new Set(asked)]).toEqual([own.name]);
  });
});
