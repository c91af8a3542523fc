import type { ContainerFacts } from '../model/container.js';
import type { Policy } from '../model/policy.js';
import type { Coverage } from '../model/verdict.js';
import type { InForce } from './enforcer.js';

export interface CoverageInput {
  readonly container: ContainerFacts;
  readonly policy: Policy;
  readonly state: InForce | undefined;
  /** Docker's resolver asks for it from the host's namespace. */
  readonly hostAsked: boolean;
  readonly namespaceDns: 'attached' | 'failed' | 'none';
}

const SOCKET = /docker\.sock|^\/(var\/)?run(\/docker)?$|^\/$/;

/** Whether what is promised can be held for this container, and everything that its operator should know. */
export function coverageOf(input: CoverageInput): Coverage {
  const holes = holesOf(input.container);
  const gaps = [...gapsOf(input), ...powersOf(input.container)];
  const notes = input.policy.notes.map((n) => (n.remedy ? `${n.detail}: ${n.remedy}` : n.detail));
  const state = holes.length > 0 ? 'unenforced' : gaps.length > 0 ? 'partial' : 'enforced';
  return { state, reasons: [...holes, ...gaps, ...notes] };
}

/** What makes its traffic pass beside our rules. */
function holesOf(c: ContainerFacts): string[] {
  if (c.networkMode === 'host')
    return [
      'it uses the host network: its traffic does not pass the bridge; give it a bridge network to enforce it',
    ];
  return [];
}

function gapsOf({ container, policy, state, hostAsked, namespaceDns }: CoverageInput): string[] {
  const gaps: string[] = [];
  if (container.sharesWith)
    gaps.push(
      `it shares the network of ${container.sharesWith.slice(0, 12)}: that container's policy holds, its own labels do not`,
    );
  for (const e of container.endpoints) {
    const network = state?.view.networks.get(e.networkId);
    if (!network) continue;
    const managed = [...(state?.ports.bridges.values() ?? [])].some((b) => b.network.id === e.networkId);
    if (!managed)
      gaps.push(
        `network ${network.name} (${network.driver}) is not managed: what leaves through it is not held`,
      );
  }
  if (policy.mode === 'enforce' && hostAsked) gaps.push(...hostDns(namespaceDns));
  return gaps;
}

const DAEMON_LINE = 'set "dns" in /etc/docker/daemon.json (drawbridge doctor prints the line)';
function hostDns(state: 'attached' | 'failed' | 'none'): string[] {
  if (state === 'attached')
    return [
      `Docker asks names for it from the host: its first milliseconds were answered by Docker; ${DAEMON_LINE} to close them`,
    ];
  return [
    `Docker asks names for it from the host and no resolver of ours stands inside it: names are not held; ${DAEMON_LINE} and recreate it`,
  ];
}

function powersOf(c: ContainerFacts): string[] {
  const p = c.privileges;
  if (!p) return [];
  const powers: string[] = [];
  if (p.privileged)
    powers.push('it is privileged: it can undo any rule of this host; run it without --privileged');
  for (const cap of ['NET_ADMIN', 'SYS_ADMIN', 'ALL'])
    if (p.capAdd.some((x) => x.replace(/^CAP_/, '').toUpperCase() === cap))
      powers.push(`it has ${cap}: it can change rules inside its namespace; drop the capability`);
  if (p.pidMode === 'host') powers.push("it sees the host's processes (pid: host); run it without");
  if (p.binds.some((b) => SOCKET.test(b.split(':')[0] ?? '')))
    powers.push('it can reach the Docker socket: it can start containers without a policy; do not mount it');
  return powers;
}
