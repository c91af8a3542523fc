/** List files: YAML, entries in both forms, and what stays in force when a file is refused. */

import { readdirSync, readFileSync } from 'node:fs';
import { stringify } from 'yaml';
import { EMPTY_FOLDER, nextFolder, parseListFile } from '../../../src/config/list-files.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import { bend, parsedJson } from '../json.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';
import { entryTexts, entryWords, generateEntries } from './entries.js';

const SHIPPED = new URL('../../../allowlists/', import.meta.url);
const BODY = {
  description: 'x',
  hosts: ['web-*'],
  match: { name: 'runner-*', labels: { a: 'b' } },
  mode: 'enforce',
  allow: [
    'api.github.com',
    { to: 'a.org', ports: [443, '80'], proto: 'udp', comment: 'why', expires: '2030-12-31T23:59:59Z' },
    { to: '10.0.0.0/8', ports: '1-9', private: true, broad: true, tls: 'off', quic: 'deny', dns: 'direct' },
  ],
};
const GOOD = 'allow:\n  - good.example\n';

function asFile(text: string): void {
  const parsed = parseListFile('/x/fuzz.yaml', text);
  const last = nextFolder(new Map([['/x/fuzz.yaml', { text: GOOD }]]), EMPTY_FOLDER);
  const next = nextFolder(new Map([['/x/fuzz.yaml', { text }]]), last);
  if (!parsed.ok) {
    must(parsed.problems.length > 0, 'refused without a word');
    for (const { line = 0, column = 0, file } of parsed.problems.slice(0, 5))
      must(line >= 1 && column >= 1 && file === '/x/fuzz.yaml', 'a problem without a place');
    mustEqual(next.lists, last.lists, 'a refused file changed what is in force');
    return;
  }
  const { allow } = parsed.value;
  const rewritten = stringify({ allow: allow.map(({ canonical }) => canonical) });
  const again = parseListFile('/x/fuzz.yaml', rewritten);
  must(again.ok, 'the list in its canonical form is refused');
  mustEqual(
    again.value.allow.map(({ canonical }) => canonical),
    allow.map(({ canonical }) => canonical),
    'a list changes when it is written and read again',
  );
}

function asBody(value: unknown): void {
  const parsed = listFromObject('fuzz', 'store', value);
  if (!parsed.ok) must(parsed.problems.length > 0, 'refused without a word');
}

function generate(random: Random): Buffer {
  if (random.chance(2)) return Buffer.from(JSON.stringify(bend(random, BODY, entryWords)));
  const items = Array.from({ length: random.below(6) }, () => `  - ${generateEntries(random)}\n`);
  return Buffer.from(
    `${random.pick(['mode: off\n', '', 'match: { name: "x*" }\n'])}allow:\n${items.join('')}`,
  );
}

export const lists: Target = {
  name: 'lists',
  corpus: [
    ...readdirSync(SHIPPED)
      .filter((file) => file.endsWith('.yaml'))
      .map((file) => readFileSync(new URL(file, SHIPPED))),
    Buffer.from(stringify(BODY)),
    Buffer.from(stringify({ allow: entryTexts })),
    Buffer.from(JSON.stringify(BODY)),
    ...bytes(
      'allow: [&a x.org, *a]\n',
      'a: &a [*a]\n',
      '%YAML 1.1\n---\nmode: off\n',
      'allow:\n  - *.x.org\n',
    ),
  ],
  words: bytes(
    ...entryWords,
    'allow:\n',
    '  - ',
    '- ',
    '*a ',
    '&a ',
    '[',
    '{',
    '}',
    ': ',
    '? ',
    '"',
    "'",
    '|\n',
    '---\n',
    '!!binary ',
    '<<: ',
    '#',
    '\t',
  ),
  maxLength: 32_768,
  generate,
  check: (input) => {
    asFile(input.toString('utf8'));
    asBody(parsedJson(input));
  },
};
