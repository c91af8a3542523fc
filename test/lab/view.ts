/** The lab's mount view: /etc/resolv.conf, /run/containerd and /sys/fs/bpf of its own, all else as on the machine. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { enginePath } from './packaged-engine.js';
import { commandOf, run, startDaemon, waitFor } from './process.js';
import type { LabRecord } from './registry.js';
import { ADDRESSES } from './topology.js';

const LEGACY = [
  'iptables',
  'iptables-save',
  'iptables-restore',
  'ip6tables',
  'ip6tables-save',
  'ip6tables-restore',
];

/**
 * For the programs of Docker, which are written in Go and start some ten thousand times in a test run: most of them end before their heap is
 * so large that it is collected.
 */
const GOGC = '400';

export class View {
  readonly resolvConf: string;
  readonly env: NodeJS.ProcessEnv;
  readonly #netns: string;
  readonly #anchor: number;

  constructor(record: LabRecord, anchor: number) {
    this.resolvConf = join(record.dir, 'resolv.conf');
    this.#netns = `/run/netns/${record.hostNetns}`;
    this.#anchor = anchor;
    const { DOCKER_HOST: _host, DOCKER_CONTEXT: _context, ...env } = process.env;
    const path = enginePath(record.engine, env.PATH);
    this.env = {
      GOGC,
      ...env,
      PATH: record.iptables === 'legacy' ? `${join(record.dir, 'legacy')}:${path}` : path,
    };
  }

  /** Arguments that run `argv` in HOST's network namespace and the lab's mount view; the pid stays that of the child. */
  inside(argv: readonly string[], cwd = '/'): string[] {
    const mount = `--mount=/proc/${this.#anchor}/ns/mnt`;
    return ['nsenter', mount, `--net=${this.#netns}`, '--', 'env', '-C', cwd, ...argv];
  }
}

const resolvConf = (dns: LabRecord['dns']): string =>
  dns === 'loopback'
    ? `nameserver ${ADDRESSES.stub}\n`
    : `nameserver ${ADDRESSES.authority4[0]}\nnameserver ${ADDRESSES.authority6[0]}\n`;

/** Starts the process that keeps the mount namespace. Mounts inside it do not show outside, and end with it. */
export async function startAnchor(record: LabRecord): Promise<number> {
  const argv = [
    'nsenter',
    `--net=/run/netns/${record.hostNetns}`,
    '--',
    'unshare',
    '-m',
    '--propagation',
    'slave',
    '--',
  ];
  const pid = startDaemon([...argv, 'sleep', 'infinity'], join(record.dir, 'anchor.log'));
  // only once sleep runs is the propagation set: a mount made earlier could show outside
  await waitFor('the mount namespace', () => commandOf(pid) === 'sleep', 10_000, 5);
  return pid;
}

export async function makeView(record: LabRecord, anchor: number): Promise<View> {
  const view = new View(record, anchor);
  const containerd = join(record.dir, 'run-containerd');
  mkdirSync(containerd);
  mkdirSync('/run/containerd', { recursive: true });
  writeFileSync(view.resolvConf, resolvConf(record.dns));
  await run(view.inside(['mount', '--bind', view.resolvConf, '/etc/resolv.conf']), { check: true });
  await run(view.inside(['mount', '--bind', containerd, '/run/containerd']), { check: true });
  await run(view.inside(['mount', '-t', 'bpf', 'drawbridge-lab', '/sys/fs/bpf']), { check: true });
  if (record.iptables === 'legacy') await linkLegacy(record.dir);
  return view;
}

async function linkLegacy(dir: string): Promise<void> {
  mkdirSync(join(dir, 'legacy'));
  const links = LEGACY.map((name) => [
    'ln',
    '-s',
    '/usr/sbin/xtables-legacy-multi',
    join(dir, 'legacy', name),
  ]);
  await Promise.all(links.map((l) => run(l, { check: true })));
}
