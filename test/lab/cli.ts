/** scripts/lab: a lab for people. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { Lab } from './lab.js';
import { ENGINES, type EngineVersion } from './packaged-engine.js';
import { alive } from './process.js';
import { all, type LabRecord, load, orphaned } from './registry.js';
import { reap, teardown } from './teardown.js';
import { View } from './view.js';

const DEFAULT_NAME = 'lab';
const say = (text: string): void => void process.stdout.write(`${text}\n`);

function named(name: string): LabRecord {
  const record = load(name);
  if (record) return record;
  throw new Error(`no lab "${name}": scripts/lab up ${name}, or scripts/lab status for those that stand`);
}

async function up(
  name: string,
  o: { dns: 'direct' | 'loopback'; iptables: 'nft' | 'legacy'; engine?: EngineVersion; liveRestore?: true },
): Promise<void> {
  const lab = await Lab.up({
    name,
    dns: o.dns,
    iptables: o.iptables,
    ...(o.engine === undefined ? {} : { engine: o.engine }),
    keep: true,
    daemon: o.liveRestore ? { 'live-restore': true } : {},
  });
  say(`lab ${name} is up: docker -H unix://${lab.socketPath}`);
  say(
    `scripts/lab shell ${name} · scripts/lab run ${name} -- docker run --rm ${lab.images.busybox} ping -c1 93.184.1.1 · scripts/lab down ${name}`,
  );
}

/** Runs a command in HOST with DOCKER_HOST (and DRAWBRIDGE_CONFIG) set, on this terminal; its exit code becomes ours. */
async function inside(name: string, argv: readonly string[]): Promise<void> {
  const record = named(name);
  if (record.anchor === undefined || !alive(record.anchor))
    throw new Error(`lab "${name}" is broken: scripts/lab down ${name}`);
  const view = new View(record, record.anchor);
  const [file = '', ...args] = view.inside(argv, process.cwd());
  const config = join(record.dir, 'drawbridge', 'config.yaml');
  const env = {
    ...view.env,
    DOCKER_HOST: `unix://${join(record.dir, 'docker.sock')}`,
    ...(existsSync(config) ? { DRAWBRIDGE_CONFIG: config } : {}),
  };
  const child = spawn(file, args, { stdio: 'inherit', env });
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 128));
  });
}

async function down(name: string | undefined, o: { all?: true }): Promise<void> {
  await reap();
  for (const record of o.all ? all() : [named(name ?? DEFAULT_NAME)]) {
    await teardown(record);
    say(`lab ${record.name} is gone`);
  }
}

async function reapAll(): Promise<void> {
  for (const name of await reap()) say(`lab ${name} is gone: its maker went before it`);
}

function status(): void {
  const records = all();
  if (records.length === 0) say('no lab stands');
  for (const r of records) {
    const owner =
      r.owner === null
        ? 'kept'
        : orphaned(r)
          ? 'its maker has gone: scripts/lab down removes it'
          : `of process ${r.owner.pid}`;
    say(
      `${r.name}\tengine ${r.engine}\tdns ${r.dns}\tiptables ${r.iptables}\t${owner}\tunix://${join(r.dir, 'docker.sock')}`,
    );
  }
}

const program = new Command('lab')
  .description('A Docker engine and an internet in network namespaces of their own.')
  .enablePositionalOptions();
program
  .command('up')
  .argument('[name]', 'a-z, 0-9, "-"', DEFAULT_NAME)
  .addOption(
    new Option('--dns <way>', 'what resolv.conf names').choices(['direct', 'loopback']).default('direct'),
  )
  .addOption(new Option('--iptables <kind>').choices(['nft', 'legacy']).default('nft'))
  .addOption(
    new Option(
      '--engine <version>',
      'which Docker Engine; default: LAB_ENGINE, else the installed one',
    ).choices(ENGINES),
  )
  .option('--live-restore', 'containers outlive dockerd')
  .action(up);
program
  .command('run')
  .description('run a command in the lab, with DOCKER_HOST set')
  .argument('<name>')
  .argument('<command...>')
  .passThroughOptions()
  .action(inside);
program
  .command('shell')
  .argument('[name]', 'which lab', DEFAULT_NAME)
  .action((name: string) => inside(name, [userInfo().shell ?? '/bin/sh']));
program
  .command('down')
  .argument('[name]')
  .option('--all', 'every lab, those of running tests too')
  .action(down);
program.command('reap').description('take down the labs whose makers have gone').action(reapAll);
program.command('status').action(status);
await program.parseAsync().catch((e: Error) => {
  process.stderr.write(`lab: ${e.message}\n`);
  process.exitCode = 1;
});
