import type { Readable } from 'node:stream';
import type { Config } from '../config/config.js';

interface Out {
  write(text: string): unknown;
}
export interface Log {
  debug(o: object, msg?: string): void;
  info(o: object, msg?: string): void;
  warn(o: object, msg?: string): void;
  error(o: object, msg?: string): void;
}
/** A check of this host: can it enforce? `level` says what a failure means. */
export interface DoctorCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly level: 'error' | 'warn';
  readonly detail: string;
  readonly remedy?: string;
}
export interface RunningService {
  stop(): Promise<void>;
  /** Resolves when it has ended: after `stop`, or a teardown through the API. */
  readonly done: Promise<void>;
}

/** All that the commands need of the world around them; main.ts gives the real ones. */
export interface Host {
  readonly version: string;
  readonly stdout: Out;
  readonly stderr: Out;
  readonly stdin: Readable;
  /** Standard output is a terminal: tables with headings, questions. */
  readonly isTerminal: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The user, for the audit. */
  readonly user: string;
  start(config: Config, log: Log): Promise<RunningService>;
  createLog(config: Config['log']): Log;
  runDoctor(config: Config): Promise<readonly DoctorCheck[]>;
  /** Lays the closed base before Docker starts. */
  layGuard(
    config: Config,
  ): Promise<{ readonly outcome: 'laid' | 'stands'; readonly exempt: readonly string[] }>;
  /** Takes every trace out of the kernel without the service; what was removed, in words. */
  teardownKernel(config: Config): Promise<readonly string[]>;
  /** Calls back for each of the signals until disposed. */
  onSignal(signals: readonly NodeJS.Signals[], handler: (signal: NodeJS.Signals) => void): Disposable;
}
