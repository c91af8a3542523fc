import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../lib/log.js';
import { follow, isOurs } from './exec.js';

const RESTART_MS = 1_000;

/** By table of iptables: chains of others that have a jump of ours at their head, and FORWARD, which leads to DOCKER-USER. */
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
 * Calls back when another process has changed rules that concern us, as soon as the kernel says so. Sees what goes
 * through nf_tables (iptables-nft, firewalld, nft); the periodic look finds the rest.
 */
export class RulesMonitor implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  #touched: string | undefined;

  constructor(prefix: string, onForeign: (what: string) => void, log: Logger) {
    this.#done = this.#run(prefix, onForeign, log);
  }

  async #run(prefix: string, onForeign: (what: string) => void, log: Logger): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const end = await follow(
        'nft',
        ['monitor'],
        (line) => this.#line(line, prefix, onForeign),
        this.#stop.signal,
      ).catch(String);
      if (this.#stop.signal.aborted) return;
      log.warn(
        { end },
        'nft monitor ended: starting it again; until then only the periodic look finds changes',
      );
      onForeign('nft monitor was away');
      await sleep(RESTART_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  /** Changes come first, then the generation with the process that made them. */
  #line(line: string, prefix: string, onForeign: (what: string) => void): void {
    const generation = /^# new generation \d+ by process (\d+) \((.*)\)$/.exec(line);
    if (!generation) {
      if (concerns(line, prefix)) this.#touched ??= line;
      return;
    }
    const touched = this.#touched;
    this.#touched = undefined;
    if (touched !== undefined && !isOurs(Number(generation[1]))) onForeign(`${generation[2]}: ${touched}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}
