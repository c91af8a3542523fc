/** The acts: what each container tries and what comes of it, a burst of starts, changes while all runs, and the sum. */
import { ApiClient } from '../../src/api/client.js';
import type { Explain } from '../../src/api/schemas.js';
import { type ProbeResult, parseProbe } from '../../test/lab/container.js';
import type { Lab } from '../../test/lab/lab.js';
import { waitFor } from '../../test/lab/process.js';
import { type Actor, type Attempt, CI_AFTER } from './cast.js';
import { attemptLine, command, heading, type Kind, note, say, table } from './print.js';
import type { Stage } from './stage.js';

const WORDS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'no such name',
  ECONNREFUSED: 'refused',
  EHOSTUNREACH: 'unreachable',
  TIMEOUT: 'no answer',
};

const client = (stage: Stage): ApiClient =>
  new ApiClient({ socket: stage.drawbridge.apiSocket, user: 'demo' });

async function probe(stage: Stage, who: string, a: Attempt): Promise<ProbeResult> {
  const node = ['node', '/probe.cjs', 'tcp', a.host, `${a.port}`];
  return parseProbe(await stage.docker(['exec', stage.prefix + who, ...node], { check: false }));
}

function kindOf(result: ProbeResult, e: Explain): Kind {
  if (e.verdict === 'deny') return 'held';
  if (!result.ok) return 'lost';
  return e.entry === null ? 'seen' : 'passed';
}

/** The entry that decided and where it comes from, or why none fits. */
function whyOf(e: Explain, kind: Kind): string {
  const source = /\(([^()]*)\)$/.exec(e.reason)?.[1] ?? '';
  if (e.entry !== null) return `${e.entry}, ${source}`;
  return kind === 'seen' ? 'recorded: enforce would deny it' : e.reason.replace(/: it is .*$/, '');
}

async function attempt(stage: Stage, who: string, a: Attempt): Promise<void> {
  const to = a.to ?? `${a.host}:${a.port}`;
  const result = await probe(stage, who, a);
  const verdict = await client(stage).explain(stage.prefix + who, to);
  const kind = kindOf(result, verdict);
  const outcome = result.ok ? 'connected' : (WORDS[result.code ?? ''] ?? result.code ?? 'failed');
  attemptLine(kind, to, `${outcome}, ${result.ms} ms`, whyOf(verdict, kind));
}

function labelsOf(actor: Actor): string {
  const pairs = Object.entries(actor.labels ?? {}).map(([k, v]) => ` · ${k}=${v}`);
  return pairs.join('');
}

export async function tryEverything(stage: Stage): Promise<void> {
  for (const actor of stage.cast.filter((a) => a.attempts.length > 0)) {
    heading(actor.name, actor.what + labelsOf(actor));
    for (const a of actor.attempts) await attempt(stage, actor.name, a);
  }
}

/** Where nobody but a denied container went. */
const FORBIDDEN = ['93.184.6.6', '203.0.113.9', '169.254.169.254', '2600:9000:0:1::1'];

export async function whatGotOut(lab: Lab): Promise<void> {
  const packets = await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN });
  const questions = (await lab.dns.queries('pastebin.com')).length;
  say();
  note(
    `On the internet's side of the wire: ${packets} packets to what was denied, ${questions} questions for pastebin.com.`,
  );
}

const BURST = 8;
const FIRST_WORDS =
  'wget -q -T 2 -O /dev/null http://203.0.113.66/; wget -q -T 9 -O /dev/null http://93.184.7.7/ && echo reached';

/** Containers that send in their first instruction, started at once. */
export async function burst(stage: Stage, lab: Lab): Promise<void> {
  heading('no window', `${BURST} containers at once; the first instruction of each goes where it may not`);
  const one = (): ReturnType<Lab['run']> =>
    lab.run({
      network: stage.network,
      node: false,
      labels: { 'drawbridge.allow': '93.184.7.7' },
      cmd: ['sh', '-c', FIRST_WORDS],
    });
  const results = await Promise.all(Array.from({ length: BURST }, one));
  const leaked = await lab.sniffer.count({ direction: 'out', dst: '203.0.113.66' });
  const reached = results.filter((r) => r.stdout.includes('reached')).length;
  note(
    `${leaked} packets got out to 203.0.113.66; ${reached} of ${BURST} reached 93.184.7.7, which they may`,
  );
}

export async function changes(stage: Stage): Promise<void> {
  heading('changes', 'while everything runs: in force when the command returns');
  const agent = `${stage.prefix}agent`;
  command(`drawbridge allow ${agent} pastebin.com --for 10m`);
  note((await stage.drawbridge.cli(['allow', agent, 'pastebin.com', '--for', '10m'])).stdout.trim());
  await attempt(stage, 'agent', { host: 'pastebin.com', port: 443 });
  await (stage.lab ? cutDownload(stage, stage.lab) : takeBack(stage));
  await attempt(stage, 'runner-7', { host: 'registry.npmjs.org', port: 443 });
  if (stage.lab) await repair(stage, stage.lab);
}

const EDITED = 'ci.yaml is saved without registry.npmjs.org';

async function cutDownload(stage: Stage, lab: Lab): Promise<void> {
  const url = 'http://registry.npmjs.org/stream?rate=500000';
  const download = lab.exec('runner-7', ['wget', '-q', '-T', '2', '-O', '/dev/null', url]);
  const arrived = async (): Promise<boolean> =>
    (await lab.web.requests()).some((r) => r.path.startsWith('/stream'));
  await waitFor('the download to begin', arrived, 10_000);
  const saved = Date.now();
  stage.drawbridge.writeList('ci.yaml', CI_AFTER);
  await download;
  const acks = await lab.sniffer.packets({
    direction: 'out',
    dst: '93.184.4.1',
    since: saved,
    onlyFlags: 'A',
  });
  const last = Math.max(saved, ...acks.map((p) => p.time));
  note(`runner-7 downloads from registry.npmjs.org; ${EDITED}:`);
  note(`its last packet on the wire is ${Math.round(last - saved)} ms later`);
}

async function takeBack(stage: Stage): Promise<void> {
  stage.drawbridge.writeList('ci.yaml', CI_AFTER);
  const runner = `${stage.prefix}runner-7`;
  const gone = async (): Promise<boolean> =>
    (await client(stage).explain(runner, 'registry.npmjs.org:443')).verdict === 'deny';
  await waitFor('the saved list to be in force', gone, 10_000);
  note(`${EDITED}:`);
}

/** Somebody flushes the chain that our rules hang from. */
async function repair(stage: Stage, lab: Lab): Promise<void> {
  const { lastRepair: before } = (await client(stage).status()).kernel;
  command('iptables -F DOCKER-USER');
  const began = performance.now();
  await lab.inHost(['iptables', '-F', 'DOCKER-USER'], { check: true });
  const repaired = async (): Promise<boolean> => (await client(stage).status()).kernel.lastRepair !== before;
  await waitFor('the repair', repaired, 10_000);
  await lab.inHost(['iptables', '-A', 'DOCKER-USER', '-j', 'RETURN'], { check: true }); // Docker's own went, too
  note(
    `repaired ${Math.round(performance.now() - began)} ms later; a second rule, in the security table, held meanwhile`,
  );
}

export async function sum(stage: Stage): Promise<void> {
  const containers = await client(stage).containers();
  const mine = containers.filter((c) => c.name.startsWith(stage.prefix));
  const rows = mine.map((c) => [
    c.name,
    c.mode,
    c.coverage.state === 'enforced' ? 'full' : c.coverage.state,
    c.lists.join(',') || '-',
    `${c.allowed}`,
    `${c.denied}`,
  ]);
  heading('the sum', 'drawbridge ps, in short');
  table([['NAME', 'MODE', 'PROTECTION', 'LISTS', 'ALLOWED', 'DENIED'], ...rows]);
  const partial = mine.filter((c) => c.coverage.state !== 'enforced').flatMap((c) => c.coverage.reasons);
  for (const reason of new Set(partial)) note(`not fully enforced: ${reason}`);
}
