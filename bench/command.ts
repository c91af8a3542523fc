/**
 * How long the command line takes: `drawbridge ps` and `docker ps` in turn, both as processes of this host, about the same
 * containers of one lab; and the least that a program in Node takes.
 * `npx tsx bench/command.ts [--rounds 25] [--containers 10] [--keep]`, as root.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Lab } from '../test/lab/lab.js';
import { run } from '../test/lab/process.js';
import { inParallel } from '../test/live/support.js';
import { figure, interleaved, ratios, type Side } from './harness.js';
import { KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '25' },
    containers: { type: 'string', default: '10' },
  },
});
const MAIN = join(import.meta.dirname, '..', 'dist', 'main.js');

/** ms from the start of the process to its end. */
function timed(name: string, argv: readonly string[], env: NodeJS.ProcessEnv = {}): Side {
  return {
    name,
    measure: async () => {
      const began = performance.now();
      await run(argv, { env: { ...process.env, ...env }, check: true });
      return performance.now() - began;
    },
  };
}

const lab = await Lab.up({ sniffer: false, onDisk: true });
try {
  const drawbridge = lab.drawbridge({ config: { log: { level: 'warn' } } });
  await drawbridge.ready();
  const numbers = Array.from({ length: Number(values.containers) }, (_, n) => n + 1);
  await inParallel(2, numbers, (n) =>
    lab.start({ node: false, labels: { 'drawbridge.allow': `192.0.2.${n}:443` } }),
  );
  const own = (...args: readonly string[]): readonly string[] => [process.execPath, MAIN, ...args];
  // As a person writes it; the lab's own is JSON, which the YAML reader takes.
  const config = join(lab.dir, 'config.yaml');
  writeFileSync(config, `state: ${drawbridge.stateDir}\napi:\n  listen: unix:${drawbridge.apiSocket}\n`);
  const env = { DRAWBRIDGE_CONFIG: config };
  const sides = [
    timed('docker ps', ['docker', '-H', `unix://${lab.engine.socketPath}`, 'ps']),
    timed('drawbridge ps', own('ps'), env),
    timed('node -e 0', [process.execPath, '-e', '0']),
    timed('drawbridge --version', own('--version')),
    timed('drawbridge status', own('status'), env),
    timed('drawbridge ps', own('ps'), { DRAWBRIDGE_CONFIG: drawbridge.configFile }),
  ];
  const [docker = [], ps = [], node = [], version = [], status = [], yaml = []] = await interleaved(
    sides,
    Number(values.rounds),
  );
  const row = (
    id: string,
    label: string,
    ours: readonly number[],
    theirs: readonly number[],
    name: string,
  ): Row => ({
    id,
    label,
    unit: 'ms',
    ours: figure(ours),
    beside: { ...figure(theirs), label: name },
    ratio: ratios(ours, theirs),
  });
  await writeResult('command', 'npx tsx bench/command.ts', [
    row('command-ps', `\`drawbridge ps\`, ${values.containers} containers`, ps, docker, '`docker ps`'),
    row(
      'command-ps-yaml',
      '`drawbridge ps`, a configuration that needs the YAML reader',
      yaml,
      docker,
      '`docker ps`',
    ),
    row('command-status', '`drawbridge status`', status, docker, '`docker ps`'),
    row('command-version', '`drawbridge --version`', version, node, '`node -e 0`'),
  ]);
} finally {
  await lab.down();
}
