/** The notes about this host survive whatever is in their file, and have what the files of earlier versions had. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readNotes, writeNotes } from '../../../src/kernel/host-notes.js';

let dir: string;
let said: string[];
const report = (_: object, message: string): void => void said.push(message);
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-notes-'));
  said = [];
});
afterEach(() => rmSync(dir, { recursive: true }));
const write = (name: string, content: string | Buffer): void => writeFileSync(join(dir, name), content);

const EMPTY = {
  parents: { known: [], made: [] },
  folders: [],
  chains: undefined,
  prefix: '',
  accounting: '',
};
const ALL = {
  parents: { known: ['docker', 'a.slice'], made: ['docker'] },
  folders: ['/run/x/netns'],
  chains: { 'ip filter': ['INPUT'], 'ip6 nat': [] },
  prefix: 'DRAW',
  accounting: '0f0f',
};

const GARBAGE: readonly (readonly [string, string | Buffer])[] = [
  ['nothing', ''],
  ['null', 'null'],
  ['a number', '5'],
  ['a text', '"x"'],
  ['cut short', '{"known":["a"'],
  ['binary', Buffer.from([0, 255, 254, 0, 123, 10])],
  ['zeros', Buffer.alloc(4096)],
  ['deep', '['.repeat(100_000)],
  ['fields of another kind', '{"known":5,"used":[1],"ip filter":{}}'],
  ['an array of others', '[5,{},null,["x"]]'],
];

describe('host.json', () => {
  it('has what was written, one note at a time, and only root reads it', () => {
    expect(readNotes(dir, report)).toEqual(EMPTY);
    for (const [name, note] of Object.entries(ALL)) writeNotes(dir, { [name]: note });
    expect(readNotes(dir, report)).toEqual(ALL);
    writeNotes(dir, { accounting: '' });
    expect(readNotes(dir, report)).toEqual({ ...ALL, accounting: '' });
    expect([readdirSync(dir), statSync(join(dir, 'host.json')).mode & 0o777]).toEqual([['host.json'], 0o600]);
    expect(said).toEqual([]);
  });

  it('notes that no chain existed before, which is not the same as not to know', () => {
    writeNotes(dir, { chains: {} });
    expect(readNotes(dir, report).chains).toEqual({});
    expect(readNotes(dir, report).prefix).toBe('');
  });

  it.each(GARBAGE)('with %s: as if there were none, or not that note', (_what, content) => {
    write('host.json', content);
    expect(readNotes(dir, report)).toEqual(EMPTY);
    writeNotes(dir, { prefix: 'DRAW' });
    expect(readNotes(dir, report)).toEqual({ ...EMPTY, prefix: 'DRAW' });
  });

  it.each([
    ['cut', '{"prefix":"DR'],
    ['of a later version', '{"version":2,"prefix":"X"}'],
    ['with chains of another kind', '{"version":1,"chains":{"ip filter":{}}}'],
  ])('that is %s is kept under another name, and reported', (_what, text) => {
    write('host.json', text);
    expect(readNotes(dir, report)).toEqual(EMPTY);
    expect(readFileSync(join(dir, 'host.json.unusable'), 'utf8')).toBe(text);
    expect(said).toEqual(['notes about this host cannot be read: they are not used']);
  });

  it('stays as it was when it cannot be replaced', () => {
    expect(() => writeNotes(join(dir, 'missing'), { prefix: 'A' })).toThrow(/ENOENT/);
    writeNotes(dir, ALL);
    expect(readNotes(dir, report)).toEqual(ALL);
  });
});

/** Each with what it had; the first four also in the form with a version. */
const FORMER = [
  ['cgroup-parents.json', JSON.stringify({ version: 1, ...ALL.parents }), { parents: ALL.parents }],
  ['cgroup-parents.json', JSON.stringify(ALL.parents), { parents: ALL.parents }],
  ['sandbox-folders.json', JSON.stringify([{ version: 1 }, ...ALL.folders]), { folders: ALL.folders }],
  ['sandbox-folders.json', JSON.stringify(ALL.folders), { folders: ALL.folders }],
  ['kernel-found.json', JSON.stringify({ version: 1, ...ALL.chains }), { chains: ALL.chains }],
  ['kernel-found.json', '{"version":1}', { chains: {} }],
  ['kernel-prefix', 'DRAW\n', { prefix: 'DRAW' }],
  ['conntrack-accounting', '0f0f', { accounting: '0f0f' }],
] as const;

describe('a file of an earlier version', () => {
  it.each(FORMER)('%s with %s is read once and removed', (name, text, notes) => {
    write(name, text);
    expect(readNotes(dir, report)).toEqual({ ...EMPTY, ...notes });
    expect(readdirSync(dir)).toEqual(['host.json']);
    expect(readNotes(dir, report)).toEqual({ ...EMPTY, ...notes });
    expect(said).toEqual([]);
  });

  it('all of them', () => {
    for (const [name, text] of FORMER) if (text !== '{"version":1}') write(name, text);
    writeNotes(dir, { prefix: 'OTHER' });
    expect(readNotes(dir, report)).toEqual({ ...ALL, prefix: 'OTHER' });
    expect(readdirSync(dir)).toEqual(['host.json']);
  });

  it.each(['cgroup-parents.json', 'sandbox-folders.json', 'kernel-found.json'])(
    '%s that is damaged is kept, and costs none of the others',
    (name) => {
      write(name, '{"a":[');
      write('kernel-prefix', 'DRAW');
      expect(readNotes(dir, report)).toEqual({ ...EMPTY, prefix: 'DRAW' });
      expect(readdirSync(dir).sort()).toEqual([`${name}.unusable`, 'host.json'].sort());
    },
  );

  it('is read where nothing can be written', () => {
    write('kernel-prefix', 'DRAW');
    // A folder in the place of the new file: it cannot be opened for writing.
    const tmp = join(dir, 'host.json.tmp');
    mkdirSync(tmp);
    expect(readNotes(dir, report).prefix).toBe('DRAW');
    expect(readNotes(dir, report).prefix).toBe('DRAW');
    expect(said[0]).toContain('stay in their own files');
    rmSync(tmp, { recursive: true });
    expect(readNotes(dir, report).prefix).toBe('DRAW');
    expect(readdirSync(dir)).toEqual(['host.json']);
  });
});
