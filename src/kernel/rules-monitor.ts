import { setTimeout as sleep } from 'node:timers/promises';
import { guarded } from '../lib/faults.js';
import type { Logger } from '../lib/log.js';
import { follow, isOwnProcess } from './exec.js';
import { closeDescriptor, openSocket, readSocketOption } from './netlink/libc.js';

const RESTART_MS = 1_000;
/** nft has subscribed long before; it does not say when. */
const LISTENS_MS = 1_000;

/**
 * By iptables table: foreign chains with a Drawbridge jump at their head, and FORWARD, which contains the jump to
 * DOCKER-USER.
 */
const HOOKED: Readonly<Record<string, readonly string[]>> = {
  filter: ['DOCKER-USER', 'FORWARD', 'INPUT', 'OUTPUT'],
  nat: ['PREROUTING', 'OUTPUT'],
  security: ['FORWARD', 'INPUT', 'OUTPUT'],
  mangle: ['OUTPUT'],
  raw: ['OUTPUT'],
};

/**
 * Whether a line of `nft monitor` concerns rules of this prefix or a chain that they are hooked in. Docker 28 writes rules
 * into `raw PREROUTING` at every start of a container: that chain has none.
 */
export function concerns(line: string, prefix: string): boolean {
  const [, table = '', chain = ''] = / ip6? (\S+) (\S+)/.exec(line) ?? [];
  if (HOOKED[table]?.includes(chain)) return true;
  return (
    line.includes(`${prefix}-`) || / (bridge|inet) drawbridge/.test(line) || line.startsWith('delete table')
  );
}

/**
 * Calls back as soon as the kernel reports that another process has changed rules that concern Drawbridge. It sees
 * changes through nf_tables (iptables-nft, firewalld, nft); the periodic check finds the others. It calls back with undefined each time
 * that it has begun to listen, and with a reason when it has ended: changes from before that may not have been reported.
 */
export class RulesMonitor implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  #touched: string | undefined;

  constructor(prefix: string, onForeign: (what: string | undefined) => void, log: Logger) {
    this.#done = this.#run(prefix, onForeign, log);
  }

  async #run(prefix: string, report: (what: string | undefined) => void, log: Logger): Promise<void> {
    const onForeign = (what: string | undefined): void =>
      guarded('a report of changed rules was not taken: the periodic check finds the change', () =>
        report(what),
      );
    while (!this.#stop.signal.aborted) {
      const listens = setTimeout(() => onForeign(undefined), LISTENS_MS);
      const end = await follow(
        'nft',
        ['monitor'],
        (line) => this.#line(line, prefix, onForeign),
        this.#stop.signal,
      ).catch(String);
      clearTimeout(listens);
      if (this.#stop.signal.aborted) return;
      log.warn(
        { end },
        'nft monitor ended: starting it again; until then only the periodic check finds changes',
      );
      onForeign('nft monitor was not running'); // one that ends again and again never listens
      await sleep(RESTART_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  /** nft prints the changes first, then the generation with the process that made them. */
  #line(line: string, prefix: string, onForeign: (what: string) => void): void {
    const generation = /^# new generation \d+ by process (\d+) \((.*)\)$/.exec(line);
    if (!generation) {
      if (concerns(line, prefix)) this.#touched ??= line;
      return;
    }
    const touched = this.#touched;
    this.#touched = undefined;
    if (touched !== undefined && !isOwnProcess(Number(generation[1])))
      onForeign(`${generation[2]}: ${touched}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}

const SOCK_RAW = 3;
const IPPROTO_RAW = 255;
/** AF_INET with SOL_IP, AF_INET6 with SOL_IPV6. */
const FAMILIES = [
  { domain: 2, level: 0 },
  { domain: 10, level: 41 },
] as const;
/** IPT_SO_GET_INFO and IP6T_SO_GET_INFO (include/uapi/linux/netfilter_ipv4/ip_tables.h, …_ipv6/ip6_tables.h). */
const GET_INFO = 64;
/** struct ipt_getinfo: name[32], valid hooks, 5 hook entries, 5 underflows, number of entries, size. */
const NAME_LENGTH = 32;
const INFO_LENGTH = 84;
const TABLES = ['filter', 'nat', 'security', 'mangle'] as const;

/**
 * Sizes and offsets of the tables of iptables-legacy, which sends no notifications of changes. Use it only where legacy
 * is in use: the request makes the kernel load the modules of legacy.
 */
export class LegacyTables implements Disposable {
  readonly #sockets = FAMILIES.map((f) => ({ ...f, fd: openSocket(f.domain, SOCK_RAW, IPPROTO_RAW) }));

  /**
   * The text differs when rules were added, removed, or moved between chains, but not when a rule was replaced by one
   * of the same size.
   */
  fingerprint(): string {
    return this.#sockets.flatMap((s) => TABLES.map((table) => infoOf(s.fd, s.level, table))).join();
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#sockets) closeDescriptor(fd);
  }
}

function infoOf(fd: number, level: number, table: string): string {
  const info = Buffer.alloc(INFO_LENGTH);
  info.write(table, 'latin1');
  const errno = readSocketOption(fd, level, GET_INFO, info);
  return errno === 0 ? info.toString('hex', NAME_LENGTH) : `error ${errno}`; // no such table: that may change, too
}
