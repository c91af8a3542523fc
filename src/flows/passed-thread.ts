/**
 * The thread that reads what flows have passed: decoding thousands of messages a second must not delay DNS and queued packets. It reads at
 * intervals, because a process that waits for each message would be woken for each.
 */

import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { FlowAccounting, type Senders } from '../kernel/netlink/flow-accounting.js';
import { errorText } from '../lib/problem.js';
import { setServiceFlags } from '../lib/thread.js';
import { FlowTally, type PassedFlow, type TallyOptions } from './flow-tally.js';

/** What the thread begins with. */
interface PassedOptions extends TallyOptions {
  readonly dumpMs: number;
  /** An IPv4 address: flows to it are not recorded, and the kernel does not report them. */
  readonly notTo: string;
}
export interface PassedRequest {
  readonly begin?: PassedOptions;
  readonly senders?: Senders;
  /** Read the table soon: a person waits. */
  readonly read?: true;
  /** Report what is left; it is answered with 'ended'. */
  readonly end?: true;
}
export interface PassedBatch {
  readonly flows: readonly PassedFlow[];
  /** Since the thread began. */
  readonly lost: number;
  readonly dropped: number;
  readonly malformed: number;
  readonly error?: string;
  /** Connections until then are reported, open ones included (ms since the epoch); undefined: the table was not read yet. */
  readonly until?: number;
}

const port = parentPort;
if (!port) throw new Error('flows/passed-thread runs in a worker thread only');
setServiceFlags();
try {
  setPriority(10); // of this thread: nothing waits for records, and what comes meanwhile has room in the receive buffer
} catch {
  // It keeps the priority of the main thread.
}

/** The receive buffer has room for the messages of a second at 10,000 flows a second. */
const READ_MS = { busy: 100, idle: 500 };
const BATCH_MS = 1_000;
/** A dump of a large table takes this share of a core at most. */
const DUMP_SHARE = 50;

let tally: FlowTally | undefined;
let accounting: FlowAccounting | undefined;
let every = 0;
let isReading = false;
let reported = '';
/** When the last complete read of the table began (ms since the epoch). */
let until: number | undefined;
let isWanted = false;
let wake: () => void = () => undefined;

function begin({ dumpMs, notTo, ...options }: PassedOptions): void {
  tally = new FlowTally(options);
  accounting = new FlowAccounting(tally, { notTo });
  every = dumpMs;
}

/** The first dump finds what is older than the record, and needs the senders for it. */
function setSenders(of: FlowAccounting, senders: Senders): void {
  of.setSenders(senders);
  if (isReading) return;
  isReading = true;
  read(of);
  setInterval(report, BATCH_MS);
  void dumpForEver(of);
}

function read(from: FlowAccounting): void {
  const count = from.drain(Date.now());
  setTimeout(read, count > 0 ? READ_MS.busy : READ_MS.idle, from);
}

async function dumpForEver(from: FlowAccounting): Promise<void> {
  let overruns = 0;
  for (;;) {
    const begun = performance.now();
    const time = Date.now();
    const isForReader = isWanted;
    isWanted = false;
    let error: string | undefined;
    await from.dump().catch((e: unknown) => {
      error = errorText(e);
    });
    if (error === undefined) until = time;
    if (error !== undefined || isForReader) report(error);
    const read = performance.now();
    const pause = (read - begun) * DUMP_SHARE;
    const isDue = (): boolean => performance.now() >= read + Math.max(pause, isWanted ? 0 : every);
    // ends of flows were lost: what is open now is found at once
    while (!isDue() && from.overruns === overruns)
      await new Promise<void>((resume) => {
        wake = resume;
        setTimeout(resume, Math.min(BATCH_MS, read + (isWanted ? pause : every) - performance.now()));
      });
    overruns = from.overruns;
  }
}

/** What is new since the last report. */
function report(error?: string): void {
  if (!tally || !accounting) return;
  const flows = tally.take(Date.now());
  const counts = { lost: accounting.lost, dropped: tally.dropped, malformed: tally.malformed };
  const state = JSON.stringify([counts, until]);
  if (flows.length === 0 && state === reported && error === undefined) return;
  reported = state;
  const read = until === undefined ? {} : { until };
  const failure = error === undefined ? {} : { error };
  port?.postMessage({ flows, ...counts, ...read, ...failure } satisfies PassedBatch);
}

port.on('message', (request: PassedRequest) => {
  if (request.begin) begin(request.begin);
  if (request.senders && accounting) setSenders(accounting, request.senders);
  if (request.read) {
    isWanted = true;
    wake();
  }
  if (request.end) {
    accounting?.drain(Date.now());
    report();
    port.postMessage('ended');
  }
});
