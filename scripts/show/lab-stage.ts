/** The lab: a Docker engine and an internet in network namespaces. */
import { isDeepStrictEqual } from 'node:util';
import type { KernelSnapshot } from '../../test/lab/kernel-snapshot.js';
import { Lab } from '../../test/lab/lab.js';
import { LAB_CAST, LISTS, ZONE } from './cast.js';
import { say } from './print.js';
import { makeImage, type Stage } from './stage.js';

const NETWORK = 'demo';

export async function labStage(keep: boolean): Promise<Stage> {
  const lab = await Lab.up({ name: keep ? 'demo' : `demo-${process.pid}`, keep });
  try {
    return await furnish(lab, keep);
  } catch (e) {
    await lab.down();
    throw e;
  }
}

async function furnish(lab: Lab, keep: boolean): Promise<Stage> {
  const docker: Stage['docker'] = (args, options) => lab.dockerResult(args, options);
  await lab.dns.set(ZONE);
  await lab.docker('network', 'create', '--ipv6', NETWORK);
  const image = await makeImage({ docker }, 'demo', {});
  const before = await lab.snapshotKernel();
  const drawbridge = lab.drawbridge({ lists: LISTS });
  await drawbridge.ready();
  const stage = { network: NETWORK, image, prefix: '', drawbridge, cast: LAB_CAST, lab, docker };
  return { ...stage, down: () => (keep ? Promise.resolve() : strike(stage, lab, before)) };
}

async function strike(stage: Omit<Stage, 'down'>, lab: Lab, before: KernelSnapshot): Promise<void> {
  try {
    const containers = await lab.docker('ps', '-aq');
    if (containers !== '') await lab.docker('rm', '-f', ...containers.split('\n'));
    await stage.drawbridge.cli(['teardown']);
    const same = isDeepStrictEqual(await lab.snapshotKernel(), before);
    const what = same ? 'as they were, line by line, before Drawbridge came' : 'NOT as they were before';
    say(`\nteardown: iptables, ip6tables, ipset and nftables are ${what}`);
  } finally {
    await lab.down();
  }
}
