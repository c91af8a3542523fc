import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Journal, replay } from '../../../src/dns/journal.js';
import { type Fact, Ledger } from '../../../src/dns/ledger.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-journal-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const fact = (n: number, container = 'c1'): Fact => ({
  container,
  name: 'a.example',
  address: `198.51.100.${n}`,
  until: 5000,
  shownUntil: 5000,
});

function open(path: string, ledger: Ledger, maxBytes = 1_000_000, log = quiet): Journal {
  const journal = new Journal({ path, maxBytes, log, wallAhead: () => 0 });
  journal.open(
    () => ledger.snapshot(),
    (facts) => ledger.restore(facts, 0, Number.POSITIVE_INFINITY),
  );
  return journal;
}
function tell(ledger: Ledger, journal: Journal, f: Fact): void {
  journal.append([ledger.record(f).fact]);
}

describe('journal', () => {
  it('brings back what was written, without an orderly end', () => {
    const path = join(dir, 'deep', 'dns.jsonl');
    const ledger = new Ledger();
    const journal = open(path, ledger);
    for (let i = 1; i < 9; i++) tell(ledger, journal, fact(i, `c${i % 2}`));
    ledger.forget('c0');
    journal.forget('c0');
    const again = new Ledger();
    open(path, again).close();
    expect([...again.snapshot()]).toEqual([...ledger.snapshot()]);
    journal.close();
  });

  it('skips a torn last line and lines that are no facts', () => {
    const path = join(dir, 'dns.jsonl');
    const ledger = new Ledger();
    const journal = open(path, ledger);
    tell(ledger, journal, fact(1));
    journal.close();
    appendFileSync(path, '{"c":1}\nnull\n[]\n{"c":"c1","n":"a.ex');
    const again = new Ledger();
    const second = open(path, again);
    expect([...again.snapshot()]).toEqual([fact(1)]);
    tell(again, second, fact(2));
    second.close();
    expect(replay(readFileSync(path, 'utf8'))).toEqual({ facts: [fact(1), fact(2)], bad: 0, version: 1 });
  });

  it('stays small', () => {
    const path = join(dir, 'dns.jsonl');
    const ledger = new Ledger();
    const journal = open(path, ledger, 2000);
    for (let i = 0; i < 500; i++)
      journal.append([ledger.record({ ...fact(1), until: i, shownUntil: i }).fact]);
    expect(statSync(path).size).toBeLessThan(2500);
    expect(replay(readFileSync(path, 'utf8')).facts.at(-1)?.until).toBe(499);
    journal.close();
  });

  it('says once that the disk is full, goes on, and writes everything once there is room', () => {
    const path = join(dir, 'dns.jsonl');
    const errors: object[] = [];
    const log = { ...quiet, error: (o: object) => void errors.push(o) };
    const ledger = new Ledger();
    symlinkSync('/dev/full', `${path}.new`);
    ledger.record(fact(1));
    const journal = new Journal({ path, retryMs: 0, log, wallAhead: () => 0 });
    journal.open(
      () => ledger.snapshot(),
      (facts) => ledger.restore(facts, 0, Number.POSITIVE_INFINITY),
    );
    tell(ledger, journal, fact(2));
    expect(journal.health().ok).toBe(false);
    expect(errors).toHaveLength(1);
    rmSync(`${path}.new`);
    tell(ledger, journal, fact(3));
    expect(journal.health().ok).toBe(true);
    tell(ledger, journal, fact(4));
    journal.close();
    expect(replay(readFileSync(path, 'utf8')).facts).toEqual([fact(1), fact(2), fact(3), fact(4)]);
  });
});
