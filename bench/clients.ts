/** Programs that put load on an enforced container, shared by benches. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Result, run } from '../test/lab/process.js';

export const ACCEPT_PORT = 7000;

/** A server, as a script for `node -e`, that ends each connection at once. */
export const acceptor = (address: string): string =>
  `require('net').createServer((s) => { s.on('error', () => {}); s.resetAndDestroy(); }).listen(${ACCEPT_PORT}, '${address}', 1024);`;

/**
 * Connects, waits for the end that the server makes at once, again, for so many ms, four at a time; prints how many a
 * second. A connection that was not made ends it: a refusal is quick, and no success (a reset comes after the connection).
 */
const connector = (server: string, seconds: number): string => `
const net = require('net'); const end = Date.now() + ${seconds * 1000}; let n = 0;
const one = () => {
  if (Date.now() > end) return;
  let made = false;
  const s = net.connect(${ACCEPT_PORT}, '${server}', () => { made = true; });
  s.on('error', (e) => { if (!made && e.code !== 'ECONNRESET') { console.error(String(e)); process.exit(1); } });
  s.on('close', () => { n++; one(); });
};
for (let i = 0; i < 4; i++) one();
setTimeout(() => { console.log(n / ${seconds}); process.exit(0); }, ${seconds * 1000 + 50});`;

/** New connections a second to an `acceptor`. `exec` runs a command where they are to come from. */
export async function connectionRate(
  exec: (argv: readonly string[]) => Promise<Result>,
  server: string,
  seconds: number,
): Promise<number> {
  const { code, stdout, stderr } = await exec(['node', '-e', connector(server, seconds)]);
  if (code !== 0) throw new Error(`a connection was not made: ${stderr}`);
  return Number(stdout.trim());
}

export interface Answered {
  /** Answers a second. */
  readonly rate: number;
  /** Mean of all answers, µs. */
  readonly latency: number;
}

const QUERIES = join(import.meta.dirname, '..', 'node_modules', '.cache', 'bench-queries');

/** By their names: a file that other clients read must not be written again. */
const files = new Map<string, string>();
function queriesFor(names: readonly string[]): string {
  const queries = names.map((name) => `${name} A\n`).join('');
  const known = files.get(queries);
  if (known !== undefined) return known;
  mkdirSync(QUERIES, { recursive: true });
  const file = join(QUERIES, `${process.pid}-${files.size}.txt`);
  writeFileSync(file, queries);
  files.set(queries, file);
  return file;
}

/** Queries for A records, from the network namespace of a process, with one socket. Throws when an answer is not useful. */
export async function dnsperf(asked: {
  readonly pid: number;
  readonly server: string;
  readonly port: number;
  readonly names: readonly string[];
  readonly options: readonly string[];
}): Promise<Answered> {
  const { pid, server, port, names, options } = asked;
  const argv = ['nsenter', '-t', String(pid), '-n', 'dnsperf', '-s', server, '-p', String(port)];
  const { stdout } = await run([...argv, '-d', queriesFor(names), '-c', '1', '-T', '1', ...options], {
    check: true,
  });
  const figure = (title: string): number =>
    Number(new RegExp(`${title}:\\s+([\\d.]+)`).exec(stdout)?.[1] ?? Number.NaN);
  const lost = figure('Queries lost');
  const codes = /Response codes:\s+(.*)/.exec(stdout)?.[1] ?? '';
  if (!/^NOERROR \d+ \(100\.00%\)$/.test(codes)) throw new Error(`not all answers are useful: ${stdout}`);
  if (lost > figure('Queries sent') / 10) console.warn(`  ${server}: ${lost} queries lost`);
  return { rate: figure('Queries per second'), latency: figure('Average Latency \\(s\\)') * 1e6 };
}
