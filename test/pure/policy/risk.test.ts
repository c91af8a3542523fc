import { describe, expect, it } from 'vitest';
import { canonicalName } from '../../../src/lib/dns-name.js';
import type { DestEntry } from '../../../src/policy/entry.js';
import { isDest, parseEntries } from '../../../src/policy/entry-parse.js';
import { RISKS, riskOfEntry, riskOfName, riskOfRange, sharedNetworks } from '../../../src/policy/risk.js';

const entriesOf = (text: string): DestEntry[] => {
  const parsed = parseEntries(text);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.value.filter(isDest);
};
const entryOf = (text: string): DestEntry => {
  const [entry] = entriesOf(text);
  if (!entry) throw new Error(`${text} is no entry`);
  return entry;
};

describe('destinations where anyone can receive data', () => {
  it('the table has names of each kind, each with a reason, and each fits itself', () => {
    expect(RISKS.length).toBeGreaterThan(120);
    expect(new Set(RISKS.map((r) => r.category)).size).toBeGreaterThan(8);
    for (const risk of RISKS) {
      expect(risk.reason).toMatch(/^\S.* \(.+\)$/);
      const name = risk.pattern.replaceAll('*', 'x1');
      expect(canonicalName(name)).toEqual({ ok: true, value: name });
      expect(riskOfName(name), risk.pattern).toBeDefined();
    }
  });

  it.each<[string, string | undefined]>([
    ['bucket.s3.amazonaws.com', '*.s3.amazonaws.com'],
    ['s3.amazonaws.com', 's3.amazonaws.com'],
    ['a.b.s3.eu-west-1.amazonaws.com', '*.s3.*.amazonaws.com'],
    ['s3-us-west-2.amazonaws.com', 's3-*.amazonaws.com'],
    ['storage.googleapis.com', 'storage.googleapis.com'],
    ['acme.blob.core.windows.net', '*.blob.core.windows.net'],
    ['gist.github.com', 'gist.github.com'],
    ['x.ngrok.io', '*.ngrok.io'],
    ['x.workers.dev', '*.workers.dev'],
    ['hooks.slack.com', 'hooks.slack.com'],
    ['sub.pastebin.com', undefined],
    ['workers.dev', undefined],
    ['github.com', undefined],
    ['notpastebin.com', undefined],
    ['amazonaws.com', undefined],
  ])('%s', (name, pattern) => expect(riskOfName(name)?.pattern).toBe(pattern));

  it.each<[string, string | undefined]>([
    ['pastebin.com', 'pastebin.com'],
    ['.pastebin.com', 'pastebin.com'],
    ['*.pastebin.com', undefined],
    ['*.github.com', 'gist.github.com'],
    ['github.com', undefined],
    ['*.workers.dev broad', '*.workers.dev'],
    ['acme.workers.dev', undefined],
    ['*.acme.workers.dev', undefined],
    ['*.s3.eu-west-1.amazonaws.com broad', '*.s3.*.amazonaws.com'],
    ['*.bucket.s3.eu-west-1.amazonaws.com', undefined],
    ['any:443', undefined],
    ['!pastebin.com', undefined],
    ['10.0.0.0/8', undefined],
  ])('the entry %s', (text, pattern) => expect(riskOfEntry(entryOf(text))?.pattern).toBe(pattern));

  it('a deny entry for all ports takes it away', () => {
    const wide = entryOf('*.github.com');
    expect(riskOfEntry(wide, entriesOf('!gist.github.com'))).toBeUndefined();
    expect(riskOfEntry(wide, entriesOf('!gist.github.com:80'))?.pattern).toBe('gist.github.com');
    expect(
      riskOfEntry(entryOf('*.core.windows.net'), entriesOf('!.blob.core.windows.net'))?.pattern,
    ).not.toBe('*.blob.core.windows.net');
  });
});

describe('addresses that many parties share', () => {
  it.each<[string, string | undefined]>([
    ['104.16.132.229:443', 'Cloudflare'],
    ['[2606:4700::6810:84e5]:443', 'Cloudflare'],
    ['151.101.1.69', 'Fastly'],
    ['1.1.1.1:853', 'Cloudflare 1.1.1.1'],
    ['3.5.140.2:443', 'Amazon Web Services'],
    ['3.0.0.0/9', 'Amazon Web Services'],
    ['192.0.2.0/24', undefined],
    ['203.0.113.7:443', undefined],
    ['10.0.0.0/8', undefined],
    ['!104.16.132.229', undefined],
  ])('%s', (text, label) => expect(riskOfEntry(entryOf(text))?.pattern).toBe(label));

  it('each network has an owner, a source and a kind that says what is shared', () => {
    expect(sharedNetworks().length).toBeGreaterThan(800);
    for (const { label, kind, range } of sharedNetworks()) {
      expect(['resolver', 'cdn', 'cloud']).toContain(kind);
      expect(riskOfRange(range)?.reason, label).toMatch(/^\S.* \(a .+: .+\)$/);
    }
  });
});
