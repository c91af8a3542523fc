import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { openListener } from '../config/api-listener.js';
import type { Config } from '../config/config.js';
import { hostFindings } from '../coverage/coverage-host.js';
import { namesRemedy } from '../coverage/coverage-names.js';
import { readHostFacts } from '../coverage/read-host-facts.js';
import { type DaemonFacts, engineFacts } from '../docker/daemon.js';
import { DockerWatch } from '../docker/watch.js';
import { exec } from '../kernel/exec.js';
import type { Logger } from '../lib/log.js';
import type { Finding } from '../policy/finding.js';
import { shapeOf } from '../ruleset/kernel-config.js';
import { checkRedis } from '../store/redis-doctor.js';
import { checkKernel, type DoctorCheck } from './doctor-kernel.js';

const SILENT: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
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
  ];
}

/** Whether tokens cross the network unencrypted. */
export function checkListener(listen: string): DoctorCheck[] {
  const found = openListener(listen);
  return found ? [{ name: 'api listener', ok: false, level: 'warn', ...found }] : [];
}

/** The host enforces without Redis; changes are what it is needed for. */
async function checkStore({ store }: Config): Promise<DoctorCheck[]> {
  if (store.redis === '') return [];
  return (await checkRedis(store.redis)).map((check) => ({ ...check, level: 'warn' }));
}

async function checkDocker(config: Config): Promise<DoctorCheck[]> {
  const docker = new DockerWatch({ socket: config.docker.socket, log: SILENT, now: () => performance.now() });
  try {
    const facts = await docker.daemonInfo();
    return [
      {
        name: 'docker',
        ok: true,
        level: 'error',
        detail: `Engine ${facts.serverVersion} answers at ${config.docker.socket}`,
      },
      ...(await checkHost(config, docker, facts).catch(notSeen)),
      checkResolver(facts),
    ];
  } catch (e) {
    const detail = `Docker does not answer at ${config.docker.socket}: ${e instanceof Error ? e.message : String(e)}`;
    return [
      {
        name: 'docker',
        ok: false,
        level: 'error',
        detail,
        remedy: 'start Docker, or set docker.socket to its socket',
      },
    ];
  } finally {
    await docker.close();
  }
}

/** What of the host weakens what is held (a warning), and what is only worth knowing. */
async function checkHost(config: Config, docker: DockerWatch, facts: DaemonFacts): Promise<DoctorCheck[]> {
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
    detail: `cannot look at the rules of others: ${e instanceof Error ? e.message : String(e)}`,
    remedy: 'mend what the message names, and try again',
  },
];

/** Where Docker's resolver asks from the host's namespace, a query does not show which container sent it. */
function checkResolver(facts: DaemonFacts): DoctorCheck {
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
