import { readFileSync } from 'node:fs';
import { Cgroups, canZone } from '../kernel/cgroups.js';
import { Dataplane } from '../kernel/dataplane.js';
import { type Exec, must } from '../kernel/exec.js';
import { PacketLog } from '../kernel/netlink/packet-log.js';
import { PacketQueue } from '../kernel/netlink/packet-queue.js';
import { compile } from '../ruleset/compile.js';
import { closedBase, type KernelConfig } from '../ruleset/desired-state.js';
import { hex } from '../ruleset/marks.js';
import { type Arrival, selfTest, wrongArrivals } from './self-test.js';

/** One thing that this host must, or should, be able to do. */
export interface DoctorCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly level: 'error' | 'warn';
  readonly detail: string;
  readonly remedy?: string;
}

const TOOLS: readonly (readonly [string, readonly string[], string])[] = [
  ['iptables', ['--version'], 'iptables'],
  ['ip6tables', ['--version'], 'iptables'],
  ['ipset', ['--version'], 'ipset'],
  ['nft', ['--version'], 'nftables'],
  ['nsenter', ['--version'], 'util-linux'],
  ['ip', ['-V'], 'iproute2'],
];

/** Everything about the kernel and its tools. Touches nothing of the host: what is tried is tried in a namespace made for it. */
export async function checkKernel(run: Exec, shape: KernelConfig): Promise<DoctorCheck[]> {
  const tools = await Promise.all(TOOLS.map((t) => checkTool(run, ...t)));
  const root = checkRoot();
  if (!root.ok || tools.some((t) => !t.ok)) return [root, ...tools];
  return [
    root,
    ...tools,
    await checkRules(run, shape),
    await checkEnforcement(run, shape),
    checkQueue(shape),
    ...(await checkMarks(run, shape)),
    ...(await checkLegacy(run)),
    ...(await checkCgroups(run)),
    await checkZones(run),
  ];
}

function checkRoot(): DoctorCheck {
  const caps = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const CAP_NET_ADMIN = 12n;
  const ok = ((BigInt(`0x${caps}`) >> CAP_NET_ADMIN) & 1n) === 1n;
  return {
    name: 'rights',
    ok,
    level: 'error',
    detail: ok ? 'may change the network (CAP_NET_ADMIN)' : 'may not change the network',
    ...(ok ? {} : { remedy: 'run it as root' }),
  };
}

async function checkTool(
  run: Exec,
  tool: string,
  args: readonly string[],
  pkg: string,
): Promise<DoctorCheck> {
  const found = await run(tool, args).catch(() => undefined);
  const ok = found?.code === 0;
  const detail = ok ? (found.stdout.split('\n')[0] ?? '') : `${tool} is missing`;
  return { name: tool, ok, level: 'error', detail, ...(ok ? {} : { remedy: `apt-get install ${pkg}` }) };
}

/** Our rules, sets and bridge table, laid for real in a namespace of their own. */
async function checkRules(run: Exec, shape: KernelConfig): Promise<DoctorCheck> {
  const name = `drawbridge-doctor-${process.pid}`;
  const inside: Exec = (file, args, options) =>
    run('nsenter', [`--net=/run/netns/${name}`, '--', file, ...args], options);
  const base = { name: 'kernel', level: 'error' } as const;
  try {
    await must(run, 'ip', ['netns', 'add', name]);
    await new Dataplane(inside, shape, () => undefined).apply(compile(closedBase(shape)));
    return { ...base, ok: true, detail: 'takes every kind of rule, set and bridge map that is needed' };
  } catch (e) {
    return {
      ...base,
      ok: false,
      detail: e instanceof Error ? e.message : String(e),
      remedy:
        'load the module that the message names, or use a kernel that has it (Debian 12 or newer has all)',
    };
  } finally {
    await run('ip', ['netns', 'del', name]);
  }
}

/** Enforcement itself, not the look of rules: packets are sent, and what arrives is counted. */
async function checkEnforcement(run: Exec, shape: KernelConfig): Promise<DoctorCheck> {
  const base = { name: 'enforcement', level: 'error' } as const;
  try {
    const wrong = wrongArrivals(await selfTest(run, shape));
    if (wrong.length === 0)
      return {
        ...base,
        ok: true,
        detail:
          'a container made for it reached what it may and not what it may not; an unknown port reached nothing (IPv4 and IPv6)',
      };
    const remedy = 'report it with the output of drawbridge bugreport: do not rely on enforcement here';
    return { ...base, ok: false, detail: wrong.map(wrongText).join('; '), remedy };
  } catch (e) {
    const detail = `could not be tried: ${e instanceof Error ? e.message : String(e)}`;
    return { ...base, ok: false, detail, remedy: 'mend what the message names, and try again' };
  }
}

function wrongText(a: Arrival): string {
  const said = (arrived: boolean): string => (arrived ? 'arrived' : 'did not arrive');
  return `${a.phase}, IPv${a.family}: the permitted packet ${said(a.permitted)}, the forbidden one ${said(a.forbidden)}`;
}

/** For the backstop of containers in the host's network; without a unified hierarchy coverage says more. */
async function checkCgroups(run: Exec): Promise<DoctorCheck[]> {
  const cgroups = new Cgroups();
  if (!cgroups.isKnown) return [];
  const ok = await cgroups.askNft(run);
  const detail = ok
    ? 'nft can ask for the cgroup of a sender'
    : 'nft cannot ask for the cgroup of a sender: with every table of iptables flushed at once, containers in the host’s network are open until the repair';
  const remedy = 'use Linux 5.13 or newer, with the cgroup hierarchy at /sys/fs/cgroup';
  return [{ name: 'cgroups', ok, level: 'warn', detail, ...(ok ? {} : { remedy }) }];
}

/** For containers in the host's network. */
async function checkZones(run: Exec): Promise<DoctorCheck> {
  const ok = await canZone(run);
  const detail = ok
    ? 'datagrams of each container in the host’s network have a zone of their own'
    : 'no zones for datagrams (iptables-legacy, or no module xt_CT): a container in the host’s network that gets a UDP port which another, or the host, has used for the same server within two minutes is refused there, and the host may get its answer';
  const remedy = 'use iptables-nft and a kernel with xt_CT (every distribution’s has it)';
  return { name: 'conntrack zones', ok, level: 'warn', detail, ...(ok ? {} : { remedy }) };
}

/** Binding tells; a service that runs has them already, which is as good. */
function checkQueue(shape: KernelConfig): DoctorCheck {
  const base = { name: 'packet queue and log', level: 'error' } as const;
  try {
    new PacketQueue({ queue: shape.holdQueue }, () => undefined).close();
    new PacketLog({ group: shape.logGroup }, () => undefined).close();
    return { ...base, ok: true, detail: `queue ${shape.holdQueue} and log group ${shape.logGroup} are free` };
  } catch (e) {
    const detail = e instanceof Error ? e.message : String(e);
    const taken = /another process/.test(detail);
    return taken
      ? {
          ...base,
          ok: true,
          level: 'warn',
          detail: `queue ${shape.holdQueue} is in use: by the running service, if it runs`,
        }
      : {
          ...base,
          ok: false,
          detail,
          remedy: 'the kernel needs NFQUEUE and NFLOG (modules nfnetlink_queue, nfnetlink_log)',
        };
  }
}

/** Marks of others that share bits with ours: ip rules, and rules that set or match them. */
async function checkMarks(run: Exec, shape: KernelConfig): Promise<DoctorCheck[]> {
  const rules = await run('ip', ['rule', 'show']);
  const clashes = [...rules.stdout.matchAll(/fwmark (0x[0-9a-f]+)(?:\/(0x[0-9a-f]+))?/g)]
    .filter(([, value, mask]) => (Number(mask ?? value) & shape.marks.all) !== 0)
    .map(([text]) => text);
  const ok = clashes.length === 0;
  return [
    {
      name: 'packet marks',
      ok,
      level: 'warn',
      detail: ok
        ? `no ip rule uses bits of ${hex(shape.marks.all)}`
        : `ip rules use our bits: ${clashes.join(', ')}`,
      ...(ok ? {} : { remedy: 'give kernel.markMask bits that nobody else uses' }),
    },
  ];
}

/** Docker's chains in the other iptables: rules of ours would stand beside the traffic. */
async function checkLegacy(run: Exec): Promise<DoctorCheck[]> {
  const [current, legacy] = await Promise.all([
    run('iptables', ['--version']),
    run('iptables-legacy-save', ['-t', 'filter']).catch(() => undefined),
  ]);
  if (current.stdout.includes('legacy') || !legacy?.stdout.includes(':DOCKER-USER')) return [];
  return [
    {
      name: 'iptables variant',
      ok: false,
      level: 'error',
      detail: "Docker's chains are in iptables-legacy, the command iptables is the nft one",
      remedy: 'update-alternatives --set iptables /usr/sbin/iptables-nft, then restart Docker',
    },
  ];
}
