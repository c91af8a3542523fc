/** The units of systemd: what they may do, and how they end. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { program } from '../lab/drawbridge.js';

const UNITS = ['drawbridge', 'drawbridge-guard', 'drawbridge-feeds'];
const ANALYZE = '/usr/bin/systemd-analyze';
const has = existsSync(ANALYZE);
if (!has) process.stdout.write('SKIPPED: exposure of units: systemd-analyze is not installed\n');

const unit = (name: string): string => readFileSync(`scripts/${name}.service`, 'utf8');
const valuesOf = (name: string, key: string): string[] =>
  unit(name)
    .split('\n')
    .filter((line) => line.startsWith(`${key}=`))
    .map((line) => line.slice(key.length + 1));

it.skipIf(!has).each(UNITS)('%s.service: exposure at most 4 of 10', (name) => {
  const argv = ['security', '--offline=true', '--no-pager', '--threshold=40', `scripts/${name}.service`];
  const text = execFileSync(ANALYZE, argv, { encoding: 'utf8' }); // fails above the threshold
  expect(Number(/exposure level for .*: ([\d.]+)/.exec(text)?.[1])).toBeLessThanOrEqual(4);
});

it('the service and the guard have the same rights; the guard takes over no sockets', () => {
  const rights = (name: string): string[] =>
    unit(name)
      .split('\n')
      .filter((line) => /^(CapabilityB|NoNew|Protect|Private|Restrict(N|A|R|S)|SystemCall|Lock)/.test(line));
  const own = rights('drawbridge');
  expect(own.filter((line) => line.endsWith(' pidfd_getfd'))).toHaveLength(1);
  expect(rights('drawbridge-guard')).toEqual(own.map((line) => line.replace(/ pidfd_getfd$/, '')));
});

it('the service may load the program that hands packets past bridges (src/kernel/past-bridge.ts)', () => {
  const calls = valuesOf('drawbridge', 'SystemCallFilter').filter((value) => !value.startsWith('~'));
  expect(calls.join(' ').split(' ')).toContain('bpf');
  const [bounded = ''] = valuesOf('drawbridge', 'CapabilityBoundingSet');
  expect(bounded.split(' ')).toEqual(expect.arrayContaining(['CAP_NET_ADMIN', 'CAP_SYS_ADMIN']));
});

it('the command starts Node with the same options on a host, in its image, and in labs', () => {
  const optionsIn = (text: string): string[] => text.match(/(?<= )--[\w-]+=\S+(?= \S*main\.js)/g) ?? [];
  const inLabs = program().filter((part) => /^--v8/.test(part));
  expect(optionsIn(readFileSync('scripts/install', 'utf8'))).toEqual(inLabs);
  expect(optionsIn(readFileSync('scripts/in-container', 'utf8'))).toEqual(inLabs);
});

it('the container has no more capabilities than the service', () => {
  const compose = readFileSync('docker-compose.yml', 'utf8');
  const given = /cap_add: \[([^\]]*NET_ADMIN[^\]]*)\]/.exec(compose)?.[1]?.split(', ') ?? [];
  expect(given.length).toBeGreaterThan(0);
  const [bounded = ''] = valuesOf('drawbridge', 'CapabilityBoundingSet');
  expect(bounded.split(' ')).toEqual(expect.arrayContaining(given.map((name) => `CAP_${name}`)));
});

it('root alone reads and writes the code that the service keeps of the program', () => {
  expect(valuesOf('drawbridge', 'CacheDirectory')).toEqual(['drawbridge']);
  expect(valuesOf('drawbridge', 'CacheDirectoryMode')).toEqual(['0700']);
  const launcher = readFileSync('scripts/launcher.cjs', 'utf8');
  expect(launcher).toContain("'/var/cache/drawbridge'");
  expect(readFileSync('scripts/install', 'utf8')).toMatch(/install -d -m 700 .*\/var\/cache\/drawbridge/);
  const [, published] = /channel\('([^']+)'\)/.exec(readFileSync('src/core-service.ts', 'utf8')) ?? [];
  expect(launcher).toContain(`const AT_REST = '${published}';`);
});

it('restarts never end, but after a teardown; a service that hangs is ended', () => {
  expect(valuesOf('drawbridge', 'Restart')).toEqual(['always']);
  expect(valuesOf('drawbridge', 'StartLimitIntervalSec')).toEqual(['0']);
  expect(valuesOf('drawbridge', 'RestartPreventExitStatus')).toEqual(['4']);
  expect(valuesOf('drawbridge', 'Type')).toEqual(['notify']);
  expect(valuesOf('drawbridge', 'KillMode')).toEqual(['process']); // the keeper of the sockets outlives the service
  expect(Number(valuesOf('drawbridge', 'WatchdogSec')[0])).toBeGreaterThan(0);
});

it('the guard comes before Docker, which requires it, and needs no folder of state', () => {
  expect(valuesOf('drawbridge-guard', 'Before')).toEqual(['docker.service drawbridge.service']);
  expect(valuesOf('drawbridge-guard', 'RequiredBy')).toEqual(['docker.service']);
  expect(valuesOf('drawbridge-guard', 'StateDirectory')).toEqual([]);
});

it.each(UNITS)('%s.service: no program comes from a folder that PATH names first', (name) => {
  const programs = ['ExecStart', 'ExecStartPre'].flatMap((key) => valuesOf(name, key));
  expect(programs.length).toBeGreaterThan(0);
  for (const program of programs) expect(program).toMatch(/^[-+]*\/usr\//);
});
