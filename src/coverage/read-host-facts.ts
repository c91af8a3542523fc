import { readFileSync } from 'node:fs';
import { type Exec, must } from '../kernel/exec.js';
import { parseSave, type SavedTable } from '../kernel/iptables-text.js';
import { savedRules } from '../kernel/read-rules.js';
import { acceptsAhead } from './forward-order.js';
import type { HostFacts } from './host-facts.js';

/** A file's text; undefined when there is none. */
type ReadText = (path: string) => string | undefined;

/**
 * Looks at this host (this network namespace): kernel switches, whose rules stand where, which firewall runs. Asks no
 * service manager. Throws KernelError when the rules cannot be read.
 */
export async function readHostFacts(
  run: Exec,
  prefix: string,
  bridges: ReadonlySet<string>,
  readText: ReadText = textOf,
): Promise<HostFacts> {
  const [v4, v6, tables] = await Promise.all([
    savedRules(run, 4, ['-t', 'filter']),
    savedRules(run, 6, ['-t', 'filter']),
    must(run, 'nft', ['list', 'tables']),
  ]);
  const [filter4, filter6] = [v4, v6].map((text) => parseSave(text, prefix).get('filter') ?? new Map());
  return {
    ...switches(readText),
    ...rulesOf(filter4 ?? new Map(), filter6 ?? new Map(), bridges),
    firewalld: /^table \w+ firewalld$/m.test(tables) || hasChain(filter4, /^FWD[IO]_|^FORWARD_direct$/),
    ufw: hasChain(filter4, /^ufw-/),
    resolvers: resolversOf(readText('/etc/resolv.conf') ?? ''),
  };
}

function rulesOf(
  v4: SavedTable,
  v6: SavedTable,
  bridges: ReadonlySet<string>,
): Pick<HostFacts, 'dockerUser' | 'foreignAccepts'> {
  const jumped = (filter: SavedTable): boolean =>
    filter.has('DOCKER-USER') &&
    (filter.get('FORWARD') ?? []).some((r) => /(^| )-j DOCKER-USER$/.test(r.text));
  return {
    dockerUser: { v4: jumped(v4), v6: jumped(v6) },
    foreignAccepts: [...acceptsAhead(v4, 4, bridges), ...acceptsAhead(v6, 6, bridges)],
  };
}

function switches(readText: ReadText): Pick<HostFacts, 'forwarding' | 'bridgeNf'> {
  const isOn = (path: string): boolean => readText(`/proc/sys/net/${path}`)?.trim() === '1';
  const loaded = readText('/proc/sys/net/bridge/bridge-nf-call-iptables') !== undefined;
  return {
    forwarding: { v4: isOn('ipv4/ip_forward'), v6: isOn('ipv6/conf/all/forwarding') },
    ...(loaded
      ? {
          bridgeNf: {
            v4: isOn('bridge/bridge-nf-call-iptables'),
            v6: isOn('bridge/bridge-nf-call-ip6tables'),
          },
        }
      : {}),
  };
}

const hasChain = (filter: SavedTable | undefined, name: RegExp): boolean =>
  [...(filter?.keys() ?? [])].some((chain) => name.test(chain));

const resolversOf = (text: string): string[] =>
  [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((m) => m[1] ?? '');

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // the switch does not exist: its module is not loaded
  }
}
