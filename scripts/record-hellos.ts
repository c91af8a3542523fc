/**
 * record-hellos.ts DIR [NAME…]: runs the clients of scripts/hellos/clients.ts between two network namespaces of its own, and
 * writes what each has sent first, and what tshark and nDPI read in it, to test/fixtures/hellos/. DIR has the compiled programs.
 * With names: only these clients, and what was read is printed.
 */
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, startDaemon } from '../test/lab/process.js';
import { CLIENTS, type Client, type Environment, VERSION_COMMANDS } from './hellos/clients.js';
import { ndpiNames, tsharkReads } from './hellos/oracles.js';
import { trimmed } from './hellos/trim.js';

const OUT = join(import.meta.dirname, '..', 'test', 'fixtures', 'hellos');
const [SERVER, CLIENT] = [`hellos-s-${process.pid}`, `hellos-c-${process.pid}`];
const SERVER_ADDRESS = '192.0.2.1';

const inside = (netns: string, argv: readonly string[]): readonly string[] => [
  'ip',
  'netns',
  'exec',
  netns,
  ...argv,
];
const must = (argv: readonly string[]) => run(argv, { check: true });

/** One veth pair. Offloads are off, so that segments and checksums are those of a network. */
async function makeNetwork(names: readonly string[]): Promise<void> {
  for (const netns of [SERVER, CLIENT]) await must(['ip', 'netns', 'add', netns]);
  await must([
    'ip',
    '-n',
    SERVER,
    'link',
    'add',
    'wire',
    'type',
    'veth',
    'peer',
    'name',
    'wire',
    'netns',
    CLIENT,
  ]);
  for (const [netns, address] of [
    [SERVER, SERVER_ADDRESS],
    [CLIENT, '192.0.2.2'],
  ] as const) {
    await must(['ip', '-n', netns, 'address', 'add', `${address}/24`, 'dev', 'wire']);
    for (const link of ['lo', 'wire']) await must(['ip', '-n', netns, 'link', 'set', link, 'up']);
    await must(
      inside(netns, ['ethtool', '-K', 'wire', 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off']),
    );
  }
  mkdirSync(`/etc/netns/${CLIENT}`, { recursive: true });
  writeFileSync(
    `/etc/netns/${CLIENT}/hosts`,
    `127.0.0.1 localhost\n${names.map((n) => `${SERVER_ADDRESS} ${n}\n`).join('')}`,
  );
  writeFileSync(`/etc/netns/${CLIENT}/resolv.conf`, 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n');
}

async function removeNetwork(): Promise<void> {
  for (const netns of [SERVER, CLIENT]) {
    const { stdout } = await run(['ip', 'netns', 'pids', netns]);
    for (const pid of stdout.split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL');
    await run(['ip', 'netns', 'del', netns]);
  }
  rmSync(`/etc/netns/${CLIENT}`, { recursive: true, force: true });
}

/** Polls a file that a process writes to. */
async function appears(file: string, text: string, times = 1): Promise<string> {
  for (let tries = 0; tries < 600; tries++) {
    const content = readFileSync(file, { encoding: 'utf8', flag: 'a+' });
    if (content.split(text).length > times) return content;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${file} does not say "${text}": ${readFileSync(file, 'utf8').slice(-500)}`);
}

/** Waits until a file has not grown for half a second. */
async function settles(file: string): Promise<void> {
  let [size, since] = [-1, 0];
  for (let tries = 0; tries < 200 && since < 10; tries++) {
    await new Promise((done) => setTimeout(done, 50));
    const now = statSync(file).size;
    since = now === size ? since + 1 : 0;
    size = now;
  }
}

/** Starts the servers, and returns the configuration for encrypted hellos. */
async function startServers(work: string): Promise<string> {
  const [key, cert] = [`${work}/key.pem`, `${work}/cert.pem`];
  await must([
    'openssl',
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-keyout',
    key,
    '-out',
    cert,
    '-subj',
    '/CN=recorded.example',
  ]);
  const serve = (name: string, ...argv: readonly string[]): number =>
    startDaemon(inside(SERVER, argv), `${work}/${name}.log`);
  serve(
    'openssl',
    'openssl',
    's_server',
    '-accept',
    '446',
    '-key',
    key,
    '-cert',
    cert,
    '-early_data',
    '-www',
    '-tls1_3',
  );
  serve('quic-447', 'gtlsserver', '0.0.0.0', '447', key, cert);
  serve('quic-448', 'gtlsserver', '--preferred-versions=v2,v1', '0.0.0.0', '448', key, cert);
  serve('quic-449', 'gtlsserver', '-V', '0.0.0.0', '449', key, cert);
  serve('go', `${work}/server`);
  const said = await appears(`${work}/go.log`, 'ready');
  return said.split('\n')[0] ?? '';
}

function prepareBrowsers(work: string): void {
  const common = [
    'browser.shell.checkDefaultBrowser',
    'datareporting.policy.dataSubmissionEnabled',
    'network.captive-portal-service.enabled',
    'network.connectivity-service.enabled',
    'app.normandy.enabled',
    'extensions.update.enabled',
  ];
  for (const name of ['firefox-h2', 'firefox-h3']) {
    mkdirSync(`${work}/${name}`, { recursive: true });
    const prefs = common.map((p) => `user_pref("${p}", false);`);
    if (name === 'firefox-h3') {
      prefs.push(
        'user_pref("network.http.http3.alt-svc-mapping-for-testing", "firefox-h3.example;h3=:443");',
      );
      prefs.push('user_pref("network.http.http3.disable_when_third_party_roots_found", false);');
    }
    writeFileSync(`${work}/${name}/user.js`, `${prefs.join('\n')}\n`);
  }
}

/** Runs one client, and returns the file with what passed between both sides. */
async function record(client: Client, env: Environment): Promise<Buffer> {
  const [file, log] = [`${env.work}/${client.name}.pcap`, `${env.work}/${client.name}.log`];
  startDaemon(
    inside(SERVER, [
      'tcpdump',
      '-i',
      'wire',
      '-s',
      '0',
      '-U',
      '--immediate-mode',
      '-Z',
      'root',
      '-w',
      file,
      'tcp or udp',
    ]),
    log,
  );
  await appears(log, 'listening on');
  const ran = await run(inside(CLIENT, client.command(env)), {
    input: '',
    timeoutMs: (client.seconds ?? 40) * 1_000,
    env: { ...process.env, HOME: env.work, MOZ_HEADLESS: '1' },
  });
  const { stdout } = await run(['ip', 'netns', 'pids', CLIENT]);
  for (const pid of stdout.split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL');
  await settles(file);
  const pids = await run(['pgrep', '-f', `^tcpdump .*${file}`]);
  for (const pid of pids.stdout.split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGINT');
  await appears(log, 'dropped by kernel');
  const pcap = readFileSync(file);
  const kept = trimmed(pcap, SERVER_ADDRESS);
  process.stdout.write(`${client.name}: exit ${ran.code}, ${pcap.length} bytes, ${kept.length} kept\n`);
  if (ran.code !== 0) process.stdout.write(`  ${ran.stderr.trim().split('\n').slice(-2).join('\n  ')}\n`);
  return kept;
}

async function versionOf(program: Client['program']): Promise<string> {
  const { stdout } = await run(VERSION_COMMANDS[program]);
  return stdout.trim().split('\n')[0] ?? '';
}

async function main([work = '', ...wanted]: readonly string[]): Promise<void> {
  const clients = CLIENTS.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
  const names =
    clients
      .flatMap((c) => c.command({ work, echList: '' }))
      .join(' ')
      .match(/[a-z0-9.-]+\.example/g) ?? [];
  mkdirSync(OUT, { recursive: true });
  writeFileSync(`${work}/early`, 'x'.repeat(300));
  prepareBrowsers(work);
  await makeNetwork([...new Set(names)]);
  const recordings = [];
  try {
    const echList = await startServers(work);
    for (const client of clients) {
      const file = join(wanted.length > 0 ? work : OUT, `${client.name}.pcap`);
      writeFileSync(file, await record(client, { work, echList }));
      recordings.push({
        name: client.name,
        client: await versionOf(client.program),
        flows: await tsharkReads(file),
        ndpi: await ndpiNames(file),
      });
    }
  } finally {
    await removeNetwork();
  }
  if (wanted.length > 0) return void process.stdout.write(`${JSON.stringify(recordings, undefined, 1)}\n`);
  const [tshark, ndpi] = await Promise.all([run(['tshark', '--version']), run(['ndpiReader', '-h'])]);
  const oracles = [tshark.stdout.split('\n')[0], /nDPI \d[\d.]*/.exec(ndpi.stdout + ndpi.stderr)?.[0]];
  writeFileSync(join(OUT, 'oracle.json'), JSON.stringify({ oracles, recordings }));
  await must(['node_modules/.bin/biome', 'format', '--write', join(OUT, 'oracle.json')]);
}

await main(process.argv.slice(2));
