/** FAR: a network beyond NET, behind a path that is narrower than its two ends. */
import { join } from 'node:path';
import { run, startDaemon, tail, waitFor } from './process.js';
import type { LabRecord } from './registry.js';

/** Its one machine echoes on this TCP port, at both addresses (of no range that NET answers for). */
export const FAR = { v4: '185.12.1.2', v6: '2a0c:8881::2', port: 7777, mtu: 1280 } as const;
const NEAR = { v4: '185.12.1.1', v6: '2a0c:8881::1' };
const PROGRAM = join(import.meta.dirname, '..', 'live', 'inside.mjs');

/** NET forwards to it no packet above FAR.mtu, though every link takes 1500: only "packet too big" tells a sender. */
export async function makeFar({ dir, netNetns, farNetns }: LabRecord): Promise<void> {
  const check = { check: true };
  await run(['ip', 'netns', 'add', farNetns], check);
  const net = [
    `link add far0 type veth peer name eth0 netns ${farNetns}`,
    `address add ${NEAR.v4}/32 dev far0`,
    `address add ${NEAR.v6}/128 dev far0 nodad`,
    'link set far0 up',
    `route add ${FAR.v4}/32 dev far0 src ${NEAR.v4} mtu lock ${FAR.mtu}`,
    `route add ${FAR.v6}/128 dev far0 src ${NEAR.v6} mtu lock ${FAR.mtu}`,
  ];
  const far = [
    'link set lo up',
    `address add ${FAR.v4}/32 dev eth0`,
    `address add ${FAR.v6}/128 dev eth0 nodad`,
    'link set eth0 up',
    `route add ${NEAR.v4}/32 dev eth0`,
    `route add ${NEAR.v6}/128 dev eth0`,
    `route add default via ${NEAR.v4}`,
    `route add ::/0 via ${NEAR.v6}`,
  ];
  await run(['ip', '-n', netNetns, '-batch', '-'], { ...check, input: `${net.join('\n')}\n` });
  await run(['ip', '-n', farNetns, '-batch', '-'], { ...check, input: `${far.join('\n')}\n` });
  const inNet = ['nsenter', `--net=/run/netns/${netNetns}`, '--'];
  await run([...inNet, 'iptables', '-t', 'nat', '-I', 'PREROUTING', '-d', FAR.v4, '-j', 'RETURN'], check);
  await run([...inNet, 'ip6tables', '-t', 'nat', '-I', 'PREROUTING', '-d', FAR.v6, '-j', 'RETURN'], check);
  const log = join(dir, 'far.log');
  startDaemon(
    ['nsenter', `--net=/run/netns/${farNetns}`, '--', process.execPath, PROGRAM, 'listen', String(FAR.port)],
    log,
  );
  await waitFor('the far end to listen', () => tail(log).includes('listening'));
}
