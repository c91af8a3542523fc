/** Requests to Docker's API: the docker client takes 17 ms of processor time for each, some thousand times in a test run. */
import { type IncomingMessage, request } from 'node:http';
import type { Socket } from 'node:net';
import type { Result, RunOptions } from './process.js';

interface Answer {
  readonly status: number;
  readonly body: Buffer;
}
const LONGEST_MS = 120_000;

function ask(
  socketPath: string,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  body: object | undefined,
  signal: AbortSignal,
): Promise<Answer> {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, method, path, headers, agent: false, signal }, (res) => {
      const parts: Buffer[] = [];
      res.on('data', (part: Buffer) => parts.push(part));
      res.on('error', reject);
      res.on('end', () => resolve({ status: res.statusCode ?? 0, body: Buffer.concat(parts) }));
    });
    req.on('error', reject);
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** Throws what Docker says when it refuses. */
export async function askDocker(
  socketPath: string,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  { body, timeoutMs = LONGEST_MS }: { readonly body?: object; readonly timeoutMs?: number } = {},
): Promise<Buffer> {
  const answer = await ask(socketPath, method, path, body, AbortSignal.timeout(timeoutMs));
  if (answer.status >= 300) throw new Error(`Error response from daemon: ${messageOf(answer)}`);
  return answer.body;
}

/** Docker sends both streams in one: frames of a header of 8 bytes (the stream, 0, 0, 0, the length) and the bytes. */
export function streamsOf(body: Buffer): { readonly stdout: string; readonly stderr: string } {
  const parts: { readonly 1: Buffer[]; readonly 2: Buffer[] } = { 1: [], 2: [] };
  for (let at = 0; at + 8 <= body.length; ) {
    const end = at + 8 + body.readUInt32BE(at + 4);
    parts[body[at] === 2 ? 2 : 1].push(body.subarray(at + 8, end));
    at = end;
  }
  return { stdout: Buffer.concat(parts[1]).toString(), stderr: Buffer.concat(parts[2]).toString() };
}

const messageOf = ({ body }: Answer): string => {
  try {
    return (JSON.parse(body.toString()) as { message: string }).message;
  } catch {
    return body.toString();
  }
};
const failed = (why: string): Result => ({
  code: 1,
  stdout: '',
  stderr: `Error response from daemon: ${why}\n`,
});

const create = (socketPath: string, container: string, spec: object, signal: AbortSignal): Promise<Answer> =>
  ask(socketPath, 'POST', `/containers/${encodeURIComponent(container)}/exec`, spec, signal);

async function execute(
  socketPath: string,
  container: string,
  argv: readonly string[],
  signal: AbortSignal,
): Promise<Result> {
  const spec = { AttachStdout: true, AttachStderr: true, Cmd: argv };
  const created = await create(socketPath, container, spec, signal);
  if (created.status !== 201) return failed(messageOf(created));
  const { Id: id } = JSON.parse(created.body.toString()) as { Id: string };
  const started = await ask(socketPath, 'POST', `/exec/${id}/start`, { Detach: false, Tty: false }, signal);
  const shown = await ask(socketPath, 'GET', `/exec/${id}/json`, undefined, signal);
  const { ExitCode: code } = JSON.parse(shown.body.toString()) as { ExitCode: number | null };
  if (started.status !== 200) return { ...failed(messageOf(started)), code: code || 1 };
  return { code: code ?? 1, ...streamsOf(started.body) };
}

/** Does not throw on a failing command. Past `timeoutMs` (default 120 s) it is left alone, with exit code 128. */
export async function dockerExec(
  socketPath: string,
  container: string,
  argv: readonly string[],
  options: Pick<RunOptions, 'timeoutMs'> = {},
): Promise<Result> {
  const signal = AbortSignal.timeout(options.timeoutMs ?? LONGEST_MS);
  return execute(socketPath, container, argv, signal).catch((e: Error) =>
    signal.aborted
      ? { code: 128, stdout: '', stderr: '' }
      : { code: 1, stdout: '', stderr: `error during connect: ${e.message}\n` },
  );
}

/** A command with its stdin and stdout (frames, as of `streamsOf`) on a connection, which ends with it. Throws what Docker says when it refuses. */
export async function attachedExec(
  socketPath: string,
  container: string,
  argv: readonly string[],
): Promise<Socket> {
  const spec = { AttachStdin: true, AttachStdout: true, AttachStderr: true, Cmd: argv };
  const created = await create(socketPath, container, spec, AbortSignal.timeout(LONGEST_MS));
  if (created.status !== 201) throw new Error(`Error response from daemon: ${messageOf(created)}`);
  const { Id: id } = JSON.parse(created.body.toString()) as { Id: string };
  const headers = { 'content-type': 'application/json', connection: 'Upgrade', upgrade: 'tcp' };
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, method: 'POST', path: `/exec/${id}/start`, headers, agent: false });
    req.on('upgrade', (_res: IncomingMessage, socket: Socket, head: Buffer) => {
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    req.on('response', (res) => {
      res.resume();
      reject(new Error(`${argv.join(' ')}: Docker answered ${res.statusCode}`));
    });
    req.on('error', reject);
    req.end(JSON.stringify({ Detach: false, Tty: false }));
  });
}
