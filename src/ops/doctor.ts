import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Config } from '../config/config.js';
import { openListener, plainReceivers, unusableSecrets } from '../config/endpoints.js';
import { namesRemedy } from '../coverage/container-findings.js';
import { readHostFacts } from '../coverage/host-facts.js';
import { engineFacts, hostFindings } from '../coverage/host-findings.js';
import { frameFinding } from '../coverage/network-findings.js';
import { openEngine } from '../docker/open-engine.js';
import { ForeignHooks, reasonAgainst, rulesBehindBridge } from '../kernel/bridge-hooks.js';
import { BridgeProgram } from '../kernel/bridge-program.js';
import { Cgroups, canZone, nftAbilities } from '../kernel/cgroups.js';
import { Dataplane } from '../kernel/dataplane.js';
import { type Exec, exec, must } from '../kernel/exec.js';
import { probeFrameChecks } from '../kernel/frame-checks.js';
import { parseSave } from '../kernel/iptables-text.js';
import { countsTraffic } from '../kernel/netlink/conntrack.js';
import { Links } from '../kernel/netlink/links.js';
import { isRefusal } from '../kernel/netlink/netlink-error.js';
import { PacketLog } from '../kernel/netlink/packet-log.js';
import { PacketQueue } from '../kernel/netlink/packet-queue.js';
import { savedRules } from '../kernel/read-rules.js';
import { errorText } from '../lib/problem.js';
import type { Engine, EngineInfo } from '../policy/engine.js';
import type { Finding } from '../policy/finding.js';
import { compile } from '../ruleset/compile.js';
import { closedBase, type KernelConfig } from '../ruleset/desired-state.js';
import { shapeOf } from '../ruleset/kernel-config.js';
import { hex } from '../ruleset/marks.js';
import { checkRedis } from '../store/redis-checks.js';
import { type Arrival, selfTest, wrongArrivals } from './self-test.js';

const HOST_ASKS_SINCE = 28;
const RESOLV_CONF = '/etc/resolv.conf';

/** Can this host enforce? */
export async function runDoctor(config: Config): Promise<DoctorCheck[]> {
  const kernel = await checkKernel(exec, shapeOf(config));
  return [
    ...kernel,
    ...(await checkDocker(config)),
    ...(await checkStore(config)),
    ...checkListener(config.api.listen),
    ...(await checkReporting(config)),
  ];
}

/** Whether tokens cross the network unencrypted. */
export function checkListener(listen: string): DoctorCheck[] {
  const found = openListener(listen);
  return found ? [{ name: 'api listener', ok: false, level: 'warn', ...found }] : [];
}

/** Errors of what reports, whether events cross the network unencrypted, and whether the secrets of receivers can be read. */
async function checkReporting({ notify, faults }: Config): Promise<DoctorCheck[]> {
  const found = [...faults, ...plainReceivers(notify), ...(await unusableSecrets(notify))];
  return found.map(({ detail, remedy }) => ({ name: 'reporting', ok: false, level: 'warn', detail, remedy }));
}

/** The host enforces without Redis; only changes need it. */
async function checkStore({ store }: Config): Promise<DoctorCheck[]> {
  if (store.redis === '') return [];
  return (await checkRedis(store.redis)).map((check) => ({ ...check, level: 'warn' }));
}

async function checkDocker(config: Config): Promise<DoctorCheck[]> {
  await using docker = openEngine(config.docker.socket);
  try {
    const facts = await docker.info();
    const detail = `Engine ${facts.serverVersion} answers at ${config.docker.socket}`;
    return [
      { name: 'docker', ok: true, level: 'error', detail },
      ...(await checkHost(config, docker, facts).catch(notSeen)),
      checkResolver(facts),
    ];
  } catch (e) {
    const detail = `Docker does not answer at ${config.docker.socket}: ${errorText(e)}`;
    const remedy = 'start Docker, or set docker.socket to its socket';
    return [{ name: 'docker', ok: false, level: 'error', detail, remedy }];
  }
}

/** Checks of the host: settings that weaken enforcement (warnings), and notes. */
async function checkHost(config: Config, docker: Engine, facts: EngineInfo): Promise<DoctorCheck[]> {
  const bridges = [...(await docker.refresh()).networks.values()].flatMap((n) => n.bridge ?? []);
  const host = await readHostFacts(exec, config.kernel.prefix, new Set(bridges));
  const found = hostFindings({ host, engine: engineFacts(facts), failure: config.failure });
  return hostChecks(found);
}

/** A host where nothing is enforced fails the doctor; what only weakens it is a warning. */
export function hostChecks(found: readonly Finding[]): DoctorCheck[] {
  if (found.length === 0)
    return [
      { name: 'host', ok: true, level: 'warn', detail: 'no other firewall rules or settings interfere' },
    ];
  return found.map(({ code, state, detail, remedy }) => ({
    name: code,
    ok: state === 'enforced',
    level: state === 'unenforced' ? 'error' : 'warn',
    detail,
    remedy,
  }));
}

const notSeen = (e: unknown): DoctorCheck[] => [
  {
    name: 'host',
    ok: false,
    level: 'warn',
    detail: `cannot read the firewall rules of other programs: ${errorText(e)}`,
    remedy: 'mend what the message names, and try again',
  },
];

/** Where Docker's resolver asks from the host's namespace, a query does not show which container sent it. */
function checkResolver(facts: EngineInfo): DoctorCheck {
  const major = Number.parseInt(facts.serverVersion, 10);
  const servers = hostServers();
  // Before that: loopback ones, and for networks without IPv6 those that have IPv6 addresses.
  const asksFromHost =
    major >= HOST_ASKS_SINCE ||
    servers.length === 0 ||
    servers.some((s) => s.startsWith('127.') || isIP(s) === 6);
  return {
    name: 'DNS at startup',
    ok: !asksFromHost,
    level: 'warn',
    detail: asksFromHost
      ? "Docker's resolver asks from the host: a container's names are filtered only from a few milliseconds after its start (unless the container or daemon.json has dns already)"
      : "Docker's resolver asks from the container: its names are filtered from its first instruction",
    ...(asksFromHost ? { remedy: namesRemedy(servers) } : {}),
  };
}

function hostServers(): string[] {
  return [
    ...(existsSync(RESOLV_CONF) ? readFileSync(RESOLV_CONF, 'utf8') : '').matchAll(
      /^\s*nameserver\s+(\S+)/gm,
    ),
  ].map((m) => m[1] ?? '');
}

/** One thing that this host must, or should, be able to do. */
interface DoctorCheck {
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

/** All checks of the kernel and its tools. They change nothing on the host: they run in a network namespace of their own. */
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
    await checkPastBridge(run, shape),
    checkAccounting(),
    checkFrames(),
  ];
}

function checkRoot(): DoctorCheck {
  const caps = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const CAP_NET_ADMIN = 12n;
  const ok = ((BigInt(`0x${caps}`) >> CAP_NET_ADMIN) & 1n) === 1n;
  const detail = ok ? 'may change the network (CAP_NET_ADMIN)' : 'may not change the network';
  return { name: 'rights', ok, level: 'error', detail, ...(ok ? {} : { remedy: 'run it as root' }) };
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

/** Install Drawbridge's rules, sets and bridge table in a network namespace of their own. */
async function checkRules(run: Exec, shape: KernelConfig): Promise<DoctorCheck> {
  const name = `drawbridge-doctor-${process.pid}`;
  const inside: Exec = (file, args, options) =>
    run('nsenter', [`--net=/run/netns/${name}`, '--', file, ...args], options);
  const base = { name: 'kernel', level: 'error' } as const;
  try {
    await must(run, 'ip', ['netns', 'add', name]);
    await new Dataplane(inside, shape, () => undefined).apply(compile(closedBase(shape)));
    return { ...base, ok: true, detail: 'accepts every kind of rule, set and bridge map that is needed' };
  } catch (e) {
    return {
      ...base,
      ok: false,
      detail: errorText(e),
      remedy:
        'load the module that the message names, or use a kernel that has it (Debian 12 or newer has all)',
    };
  } finally {
    await run('ip', ['netns', 'del', name]);
  }
}

/** Test enforcement itself: send packets and count those that arrive. */
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
    const detail = `could not be tried: ${errorText(e)}`;
    return { ...base, ok: false, detail, remedy: 'mend what the message names, and try again' };
  }
}

function wrongText(a: Arrival): string {
  const said = (arrived: boolean): string => (arrived ? 'arrived' : 'did not arrive');
  return `${a.phase}, IPv${a.family}: the permitted packet ${said(a.permitted)}, the forbidden one ${said(a.forbidden)}`;
}

/** The backstop of containers in the host network needs this. Without a unified hierarchy, coverage reports more. */
async function checkCgroups(run: Exec): Promise<DoctorCheck[]> {
  const cgroups = new Cgroups();
  if (!cgroups.isKnown) return [];
  const ok = await cgroups.askNft(run);
  const nft = ok ? await nftAbilities(run, cgroups) : undefined;
  const detail = ok
    ? nft?.identifies
      ? `nft identifies senders in the host network${nft.queues ? ' and queues unknown ones' : ', but iptables queues unknown ones: each packet of the host passes one hook more'}`
      : 'nft can match the cgroup of a sender, but iptables identifies senders in the host network: each packet of the host passes more rules'
    : 'nft cannot match the cgroup of a sender: if another process flushes all iptables tables at once, containers in the host network are not filtered until Drawbridge has repaired the rules';
  const remedy = 'use Linux 5.13 or newer, with the cgroup hierarchy at /sys/fs/cgroup';
  return [warning('cgroups', ok, detail, remedy)];
}

const warning = (name: string, ok: boolean, detail: string, remedy: string): DoctorCheck => ({
  name,
  ok,
  level: 'warn',
  detail,
  ...(ok ? {} : { remedy }),
});

/** Whether what a packet is when it leaves can be checked before all rules. */
function checkFrames(): DoctorCheck {
  const found = frameFinding(probeFrameChecks());
  const detail =
    found?.detail ?? 'segments and checksums that are made behind the last rule are checked before the first';
  return warning('frames', found === undefined, detail, found?.remedy ?? '');
}

/** Whether packets of containers take the short way to their bridge. It changes what they cost, and nothing of what is enforced. */
async function checkPastBridge(run: Exec, shape: KernelConfig): Promise<DoctorCheck> {
  const why = await reasonAgainstHandover(run, shape).catch((e: unknown) => errorText(e));
  const detail =
    why === undefined
      ? 'what containers send can be handed to the device of their bridge by a program of BPF'
      : `what containers send passes all rules for frames, which is slower: ${why}`;
  return { name: 'past the bridge', ok: true, level: 'warn', detail };
}

async function reasonAgainstHandover(run: Exec, shape: KernelConfig): Promise<string | undefined> {
  if (!shape.pastBridge) return 'kernel.pastBridge is off';
  using hooks = new ForeignHooks();
  using links = new Links();
  using _program = new BridgeProgram();
  const veths = new Set((await links.list()).flatMap((l) => (l.kind === 'veth' ? l.name : [])));
  const tables = parseSave(await savedRules(run, 4, []), shape.prefix);
  return reasonAgainst(await hooks.read(), rulesBehindBridge(new Map([[4, tables]])), (name) =>
    veths.has(name),
  );
}

/** Conntrack zones for containers in the host network. */
async function checkZones(run: Exec): Promise<DoctorCheck> {
  const ok = await canZone(run);
  const detail = ok
    ? 'datagrams of each container in the host network get a conntrack zone of their own'
    : 'no zones for datagrams (iptables-legacy, or no module xt_CT): a container in the host’s network that gets a UDP port which another, or the host, has used for the same server within two minutes is refused there, and the host may get its answer';
  const remedy = 'use iptables-nft and a kernel with xt_CT (every distribution’s has it)';
  return warning('conntrack zones', ok, detail, remedy);
}

/** Whether records of what has passed have packets and bytes. */
function checkAccounting(): DoctorCheck {
  const counts = countsTraffic();
  const detail = {
    true: 'conntrack counts packets and bytes of connections',
    false:
      'conntrack does not count packets and bytes of connections: the service switches it on when it records',
    undefined:
      'this kernel does not count packets and bytes of connections: records of what has passed are without them',
  }[`${counts}`];
  const remedy = 'use a kernel with CONFIG_NF_CONNTRACK, as distributions have';
  return warning('accounting', counts !== undefined, detail, remedy);
}

/** Bind the queues and the log groups. If the running service has them already, the check passes with a warning. */
function checkQueue(shape: KernelConfig): DoctorCheck {
  const { holdQueue, checkQueue, datagramQueue, askQueue, logGroup, names } = shape;
  const base = { name: 'packet queue and log', level: 'error' } as const;
  const queues = [holdQueue, ...(names.verify ? [checkQueue, datagramQueue] : []), askQueue];
  const groups = [logGroup, ...(names.verify ? [checkQueue] : [])];
  try {
    for (const queue of queues) new PacketQueue({ queue }, () => undefined).close();
    for (const group of groups) new PacketLog({ group }, () => undefined).close();
    const are = `queues ${queues.join(', ')} and log groups ${groups.join(', ')} are free`;
    return { ...base, ok: true, detail: are };
  } catch (e) {
    const detail = errorText(e);
    return isRefusal(e, 'EBUSY', 'EPERM')
      ? {
          ...base,
          ok: true,
          level: 'warn',
          detail: `one of the queues ${queues.join(', ')} or log groups ${groups.join(', ')} is in use: by the running service, if it runs`,
        }
      : {
          ...base,
          ok: false,
          detail,
          remedy: 'the kernel needs NFQUEUE and NFLOG (modules nfnetlink_queue, nfnetlink_log)',
        };
  }
}

/** Marks of other programs that share bits with Drawbridge's: in ip rules, and in rules that set or match them. */
async function checkMarks(run: Exec, shape: KernelConfig): Promise<DoctorCheck[]> {
  const rules = await run('ip', ['rule', 'show']);
  const clashes = [...rules.stdout.matchAll(/fwmark (0x[0-9a-f]+)(?:\/(0x[0-9a-f]+))?/g)]
    .filter(([, value, mask]) => (Number(mask ?? value) & shape.marks.all) !== 0)
    .map(([text]) => text);
  const ok = clashes.length === 0;
  const detail = ok
    ? `no ip rule uses bits of ${hex(shape.marks.all)}`
    : `ip rules use our bits: ${clashes.join(', ')}`;
  return [warning('packet marks', ok, detail, 'set kernel.markMask to bits that no other program uses')];
}

/** Docker's chains in the other iptables variant: the traffic would not pass Drawbridge's rules. */
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
