import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { concerns, RulesMonitor } from '../../../src/kernel/rules-monitor.js';
import { logContained } from '../../../src/lib/faults.js';

describe('which lines of nft monitor concern rules of ours', () => {
  it.each([
    'add rule ip filter FORWARD counter packets 0 bytes 0 jump DOCKER-USER',
    'delete rule ip6 filter FORWARD handle 12',
    'delete rule ip filter DOCKER-USER handle 3',
    'delete chain ip filter DOCKER-USER',
    'add rule ip filter INPUT counter packets 0 bytes 0 drop',
    'delete rule ip nat PREROUTING handle 4',
    'delete rule ip6 security FORWARD handle 4',
    'delete rule ip mangle OUTPUT handle 9',
    'delete rule ip raw OUTPUT handle 9',
    'delete rule ip filter DB-FORWARD handle 2',
    'delete element bridge drawbridge exempt { 7 }',
    'delete rule inet drawbridge_backstop forward handle 2',
    'delete table ip filter',
  ])('%s', (line) => expect(concerns(line, 'DB')).toBe(true));

  it.each([
    // Docker 28, at each start of a container, of a published port and of a network
    'add rule ip raw PREROUTING ip daddr 172.17.0.2 iifname != "docker0" counter packets 0 bytes 0 drop',
    'delete rule ip raw PREROUTING handle 21',
    'add rule ip filter DOCKER ip daddr 172.17.0.2 iifname != "docker0" oifname "docker0" tcp dport 80 accept',
    'add rule ip nat DOCKER iifname != "docker0" tcp dport 8080 counter packets 0 bytes 0 dnat to 172.17.0.2:80',
    'add rule ip filter DOCKER-FORWARD iifname "br-0123456789ab" counter packets 0 bytes 0 accept',
    'add rule ip nat POSTROUTING ip saddr 172.18.0.0/16 counter packets 0 bytes 0 masquerade',
    'add rule ip mangle PREROUTING counter packets 0 bytes 0 accept',
    'add rule inet firewalld filter_INPUT accept',
    'add rule ip other FORWARD accept',
  ])('not: %s', (line) => expect(concerns(line, 'DB')).toBe(false));
});

describe('nft monitor itself', () => {
  const nothing = (): void => undefined;
  const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
  const ENDED = 'nft monitor was not running';
  type Call = string | undefined;
  /** What a monitor calls back with when this script is nft, until there are so many of these calls. */
  async function calls(
    script: string,
    times: number,
    isCounted: (call: Call) => boolean = () => true,
    then: () => void = nothing,
  ): Promise<readonly Call[]> {
    const tools = mkdtempSync(join(tmpdir(), 'drawbridge-nft-'));
    writeFileSync(join(tools, 'nft'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    vi.stubEnv('PATH', `${tools}:${process.env.PATH}`);
    const called: Call[] = [];
    try {
      await using _ = new RulesMonitor(
        'DB',
        (what) => {
          called.push(what);
          then();
        },
        log,
      );
      const counted = (): Call[] => called.filter(isCounted);
      await vi.waitFor(() => expect(counted().length).toBeGreaterThanOrEqual(times), 20_000);
      return counted().slice(0, times);
    } finally {
      vi.unstubAllEnvs();
      rmSync(tools, { recursive: true });
    }
  }

  it('each end is reported, also of one that never listens', async () => {
    // on a busy host its end may be noticed after it was taken to listen
    const isEnd = (call: Call): boolean => call !== undefined;
    expect(await calls('exit 1', 2, isEnd)).toEqual([ENDED, ENDED]);
  }, 30_000);

  it('is started again after each end, whatever is thrown where that is reported', async () => {
    const logged: unknown[] = [];
    logContained({ error: (facts) => void logged.push(facts) });
    try {
      const thrown = (): void => {
        throw new Error('an error of the callback');
      };
      expect(await calls('exit 1', 3, (call) => call !== undefined, thrown)).toHaveLength(3);
      expect(logged.length).toBeGreaterThanOrEqual(3);
    } finally {
      logContained(undefined);
    }
  }, 30_000);

  it('one that listens is reported once, and after it has ended it is again', async () => {
    expect(await calls('sleep 2', 3)).toEqual([undefined, ENDED, undefined]);
  }, 30_000);
});
