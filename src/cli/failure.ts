import { ApiError, UnreachableError } from '../api/client.js';
import { type Problem, type Refusal, RefusedError, RemedyError } from '../lib/problem.js';

/** A command cannot do what it was asked: every problem with its place and remedy. Exit 1, or 2 for wrong usage. */
export class CommandFailure extends Error {
  readonly problems: readonly Problem[];
  readonly exitCode: 1 | 2;
  constructor(problems: readonly Problem[], exitCode: 1 | 2 = 1) {
    super(problems.map((p) => p.detail).join('; '));
    this.problems = problems;
    this.exitCode = exitCode;
  }
}

export function fail(detail: string, remedy: string): never {
  throw new CommandFailure([{ detail, remedy }]);
}

export function wrongUsage(detail: string, remedy: string): never {
  throw new CommandFailure([{ detail, remedy }], 2);
}

/** Any error of a command as problems; an unexpected error keeps its stack. */
export function failureOf(e: unknown): CommandFailure {
  if (e instanceof CommandFailure) return e;
  // A pointer leads into the body of a request, which the person at the command line has not written.
  if (e instanceof ApiError)
    return new CommandFailure(e.problem.errors.map(({ pointer: _, ...problem }) => problem));
  if (e instanceof UnreachableError) return new CommandFailure([unreachable(e)]);
  if (e instanceof RefusedError) return new CommandFailure(problemsOf(e.refusal));
  if (e instanceof RemedyError)
    return new CommandFailure([{ detail: e.detail, remedy: e.remedy ?? 'see its log' }]);
  if (isOfTheSystem(e)) return new CommandFailure([ofTheSystem(e)]);
  const detail = e instanceof Error ? (e.stack ?? e.message) : String(e);
  return new CommandFailure([
    { detail, remedy: 'this is a fault of drawbridge: report it with what you did' },
  ]);
}

/** A command that works without the service gets the refusals of its modules directly. */
const problemsOf = (refusal: Refusal): readonly Problem[] =>
  refusal.kind === 'invalid' ? refusal.problems : [{ detail: refusal.detail, remedy: refusal.remedy }];

/** What a system call refused: a path of the configuration, a port, a program that is missing. */
const isOfTheSystem = (e: unknown): e is NodeJS.ErrnoException =>
  e instanceof Error && 'syscall' in e && 'code' in e && typeof e.code === 'string';

const REMEDIES: Readonly<Record<string, string>> = {
  EACCES: 'run it as root, or give root the right to it',
  EPERM: 'run it as root',
  EEXIST: 'move what is there away, or name another path',
  ENOTDIR: 'one part of the path is not a folder: name another path',
  EROFS: 'its file system is read-only: mount it writable, or name another path',
  ENOSPC: 'the disk is full: free some space',
  EADDRINUSE: 'another process has this address and port: stop it (ss -tulpn shows it), or set another',
};

function ofTheSystem({ message, code = '' }: NodeJS.ErrnoException): Problem {
  return { detail: message, remedy: REMEDIES[code] ?? 'correct what the message names, and try again' };
}

export const isNotRunning = (e: unknown): boolean =>
  e instanceof UnreachableError && (e.code === 'ENOENT' || e.code === 'ECONNREFUSED');

function unreachable(e: UnreachableError): Problem {
  if (isNotRunning(e)) {
    const remedy =
      'start it: sudo systemctl start drawbridge, or sudo drawbridge run; if it runs by another configuration, name that: --config FILE';
    return { detail: `the service is not running: nothing answers on ${e.socket}`, remedy };
  }
  if (e.code === 'EACCES' || e.code === 'EPERM') {
    return {
      detail: `no permission to use ${e.socket}`,
      remedy: 'run the command with sudo: the socket is for root and its group',
    };
  }
  const detail = `the service does not answer on ${e.socket}: ${e.code}`;
  return { detail, remedy: 'see its log (journalctl -u drawbridge), and restart it if it hangs' };
}

/** "file:line:column: what" and the remedy, as compilers write it. */
export function problemText(p: Problem): string {
  const at = [p.file, p.line, p.file === undefined ? undefined : p.column]
    .filter((part) => part !== undefined)
    .join(':');
  const place = at === '' ? (p.pointer ?? '') : at;
  return `${place === '' ? '' : `${place}: `}${p.detail}\n  → ${p.remedy}`;
}
