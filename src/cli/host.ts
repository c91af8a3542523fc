import type { Readable } from 'node:stream';
import type { AuditVerdict } from '../changes/audit-verify.js';
import type { Config } from '../config/config.js';
import type { Logger } from '../lib/log.js';
import type { Service, ServiceManager } from '../ops/service-manager.js';
import type { Recoverable, StoreInspection } from '../store/store-recovery.js';

interface Out {
  write(text: string): unknown;
}
/** One check whether this host can enforce. `level` is the severity of a failure. */
export interface DoctorCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly level: 'error' | 'warn';
  readonly detail: string;
  readonly remedy?: string;
}
export interface FeedAttempt {
  /** Undefined: all feeds. */
  readonly name: string | undefined;
  readonly accept: boolean;
  readonly onlyDue: boolean;
}
/** The outcome of an attempt, and the state of the feed after it. */
export interface SyncedFeed {
  readonly outcome: 'attempted' | 'not-due' | 'too-soon' | 'busy';
  readonly feed: {
    readonly name: string;
    readonly status: string;
    readonly reason: string | null;
    readonly remedy: string | null;
    readonly entries: number;
  };
}
/** A feed of the catalogue of public feeds. */
export interface CatalogueEntry {
  readonly name: string;
  readonly what: string;
  readonly url: string;
  readonly format: string;
  readonly direction: string;
  readonly everyHours: number;
  readonly licence: string;
  readonly terms: string;
  readonly recommended: boolean;
  readonly enabled: boolean;
  readonly mayBeEmpty?: boolean;
}
/** A change that a command makes without the service. */
export interface AloneRecord {
  readonly action: 'teardown' | 'store.restore' | 'store.start-empty';
  readonly after: unknown;
  /** `refused`: a later record of the same change, which was not made. */
  readonly outcome: 'done' | 'refused';
}
/** All that the commands need of the world around them; main.ts gives the real ones. */
export interface Host {
  readonly version: string;
  readonly stdout: Out;
  readonly stderr: Out;
  readonly stdin: Readable;
  /** Standard output is a terminal: tables have headings, and times are relative. */
  readonly isTerminal: boolean;
  /** Width of that terminal; undefined: unknown. */
  readonly columns?: number | undefined;
  /** Height of that terminal; undefined: unknown. */
  readonly rows?: number | undefined;
  /** The terminals that show colours, and whether the user wants them; undefined: none. */
  readonly colours?: { readonly stdout: boolean; readonly stderr: boolean };
  /** Standard input and standard error are a terminal: a question can be asked. */
  readonly canAsk: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The user, for the audit. */
  readonly user: string;
  /** `former`: the configuration that ran before a SIGHUP. */
  start(config: Config, log: Logger, former?: Config): Promise<Service>;
  /** Undefined where no service manager waits for word. */
  serviceManager(): Promise<ServiceManager | undefined>;
  createLog(config: Config['log']): Promise<Logger>;
  runDoctor(config: Config): Promise<readonly DoctorCheck[]>;
  /** Lays the closed base before Docker starts; `notes`: what could not be done next to it. */
  layGuard(config: Config): Promise<{
    readonly outcome: 'laid' | 'stands';
    readonly exempt: readonly string[];
    readonly notes?: readonly string[];
  }>;
  /** Lays the closed base for a service that does not start; leaves alone what is installed, and other instances. */
  layClosed(config: Config, log: Logger): Promise<void>;
  /** The embedded store in a state folder, without the service. */
  inspectStore(state: string): Promise<StoreInspection>;
  restoreStore(
    state: string,
    source: Recoverable['source'],
  ): Promise<{ readonly restored: Recoverable; readonly setAside: readonly string[] }>;
  /** Resolves with the files that were set aside. */
  beginEmptyStore(state: string): Promise<readonly string[]>;
  /** Records a change in the audit without the service. Resolves with the reason if it was not recorded; never rejects. */
  recordAlone(config: Config, record: AloneRecord): Promise<string | undefined>;
  /** Takes every trace out of the kernel without the service; what was removed, in words. `isRefused`: not all of the file is valid. */
  teardownKernel(config: Config, isRefused: boolean): Promise<readonly string[]>;
  /** Whether a service is bound to the NFQUEUE of this host, possibly with another configuration. */
  isServed(config: Config): Promise<boolean>;
  /** Tries feeds without the service. */
  syncFeeds(config: Config, attempt: FeedAttempt): Promise<readonly SyncedFeed[]>;
  /** Checks the files of the audit; `hash` is to be in them. */
  verifyAudit(config: Config, hash: string | undefined): Promise<AuditVerdict>;
  catalogue(): Promise<readonly CatalogueEntry[]>;
  /** What a bug report has of this host: kernel, tools, Docker, rules, the log. Lines of files by name. */
  hostReport(config: Config): Promise<ReadonlyMap<string, string>>;
  /** Calls back for each of the signals until disposed. */
  onSignal(signals: readonly NodeJS.Signals[], handler: (signal: NodeJS.Signals) => void): Disposable;
}
