import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HostResolvers } from '../dns/host-resolvers.js';
import type { DnsService } from '../dns/service.js';
import type { DockerWatch } from '../docker/watch.js';
import { exec } from '../kernel/exec.js';
import type { Kernel } from '../kernel/kernel.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { type Complain, readStateFile, textsOf, writeStateFile } from '../store/state-file.js';
import { HostCgroupTable, type Parents } from './host-cgroups.js';

export interface HostModeOptions {
  /** The state folder. */
  readonly folder: string;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly docker: DockerWatch;
  readonly port: number;
  readonly log: Logger;
}
const ASK_MS = 2_000;
const DAEMON_FILE = '/etc/docker/daemon.json';
/** Docker's own default with the cgroupfs driver (moby daemon_unix.go, getCgroupParent). */
const DEFAULT_PARENT = 'docker';

/** What containers in the host's network need: their cgroups found, their names asked. */
export class HostMode implements Disposable {
  readonly senders: HostCgroupTable;
  readonly resolvers: HostResolvers;
  readonly #o: HostModeOptions;
  /** Id of the container that we run in ourselves, if we do: its cgroup bears it, with either driver. */
  readonly self: string | undefined;
  /** The command iptables is iptables-legacy. */
  isLegacy = false;

  constructor(options: HostModeOptions) {
    const { folder, kernel, dns, port, log } = options;
    this.#o = options;
    this.self = /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/.exec(kernel.cgroups.of('self') ?? '')?.[0];
    this.senders = new HostCgroupTable({
      cgroups: kernel.cgroups,
      parents: readParents(folder, (o, message) => log.warn(o, message)),
      onParents: (p) => this.#keep(p),
      singles: () => !this.isLegacy,
      zones: () => kernel.hasZones,
    });
    this.resolvers = new HostResolvers({ dns, port, addresses: kernel.addressTable, log });
  }

  /** Before the first pass. Where Docker will put containers, as far as it can be told before there are any. */
  async prepare(): Promise<void> {
    this.isLegacy = (await exec('iptables', ['--version'])).stdout.includes('legacy');
    const said = parentOf(textOf(DAEMON_FILE));
    if (said) this.senders.expect(said);
    if (!said && (await this.#driver()) === 'cgroupfs') this.senders.expect(DEFAULT_PARENT);
  }

  /** Docker may be away or hang: then what was last known must do. */
  #driver(): Promise<string> {
    const asked = this.#o.docker.daemonInfo().then((d) => d.cgroupDriver);
    return Promise.race([asked, sleep(ASK_MS, '', { ref: false })]).catch(() => '');
  }

  #keep(parents: Parents): void {
    try {
      writeStateFile(parentsFile(this.#o.folder), { version: PARENTS_VERSION, ...parents });
    } catch (e) {
      this.#o.log.warn(
        { err: String(e) },
        'cannot write down where Docker puts containers: after a restart the first in the host network may be seen late',
      );
    }
  }

  [Symbol.dispose](): void {
    this.resolvers[Symbol.dispose]();
  }
}

const parentsFile = (folder: string): string => join(folder, 'cgroup-parents.json');

const PARENTS_VERSION = 1;

/** Parents as they were last known with this state folder; they are learned again where the file cannot be read. */
export function readParents(folder: string, complain?: Complain): Parents {
  const parse = (content: unknown): Parents | undefined => {
    const { known = [], made = [] } = isRecord(content) ? content : { known: null };
    const [all, ours] = [textsOf(known), textsOf(made)];
    return all && ours && { known: all, made: ours };
  };
  const parents = readStateFile(parentsFile(folder), { version: PARENTS_VERSION, parse }, complain);
  return parents ?? { known: [], made: [] };
}

/** `cgroup-parent` of daemon.json; with systemd's driver it is the name of a slice, whose place in the tree it spells out. */
function parentOf(daemonJson: string | undefined): string | undefined {
  try {
    const said: unknown = JSON.parse(daemonJson ?? '{}')?.['cgroup-parent'];
    return typeof said === 'string' ? placeOf(said.replace(/^\/+|\/+$/g, '')) : undefined;
  } catch {
    return undefined; // dockerd does not start with such a file: it says so itself
  }
}

/** systemd.slice(5): a-b.slice lies in a.slice. */
function placeOf(parent: string): string | undefined {
  if (parent === '') return undefined;
  if (!parent.endsWith('.slice') || parent.includes('/')) return parent;
  const parts = parent.slice(0, -'.slice'.length).split('-');
  return parts.map((_, n) => `${parts.slice(0, n + 1).join('-')}.slice`).join('/');
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // there is none
  }
}
