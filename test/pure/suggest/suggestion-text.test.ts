import { expect, it } from 'vitest';
import { readLabels } from '../../../src/policy/labels.js';
import { suggestionText } from '../../../src/suggest/suggestion-text.js';
import { NOW, seen, suggested } from './sample.js';

const of = (
  service: string,
  rows: Parameters<typeof suggested>[0],
  more: Parameters<typeof suggested>[1] = {},
) =>
  suggested(rows, {
    container: `shop-${service}-1`,
    notRecorded: ['macvlan is not recorded'],
    ...more,
    record: { owner: `compose:shop/${service}`, ...more.record } as never,
  });

const project = [
  of('app', [seen('a.org'), seen('github.com'), seen('api.github.com'), seen('pastebin.com')]),
  of('db', []),
  of('notifier', [seen('hooks.slack.com'), seen('bad.org', { verdict: 'threat' })]),
];

it('of a project: what is left out stands commented in its place, and notes come once, below', () => {
  const text = suggestionText('project shop', project, 'compose');
  expect(text).toBe(`\
# Suggested for project shop by what was recorded.
# notifier would reach nothing: decide this one
# app       3 entries · 1 to decide (pastebin.com) · nothing new for 3 days, 17 starts
# db        0 entries · no destination in 10 days, 17 starts
# notifier  0 entries · 1 to decide (hooks.slack.com) · nothing new for 3 days, 17 starts
# Commented entries are left out. To permit one, take away the first # of its line.
services:
  app:
    labels:
      drawbridge.allow: |-
        a.org
        api.github.com
        github.com
        # list:github   # in place of api.github.com; github.com: has 11 entries
        # pastebin.com   # anyone can receive data there: pastes (a paste site: anyone can read what is written there)
  db:
    labels:
      drawbridge.mode: enforce
  notifier:
    labels:
      # notifier would reach nothing: decide this one. Then take the next line away: its entries enforce.
      drawbridge.mode: observe
      drawbridge.allow: |-
        # hooks.slack.com   # ${project[2]?.left[1]?.why}
      # Left out, and no entry is offered:
      # bad.org: a threat feed lists it: no container reaches it, whatever its entries
# Notes:
# - macvlan is not recorded
`);
});

it('a service that would reach nothing is not observed by it where it is enforced now', () => {
  const text = suggestionText(
    'shop',
    [of('notifier', [seen('hooks.slack.com')], { mode: 'enforce' })],
    'compose',
  );
  expect(text).toContain('# notifier would reach nothing: decide this one\n      drawbridge.allow: |-');
  expect(text).not.toContain('observe');
});

it('as labels, the mode is commented out with the reason', () => {
  const [, , notifier] = project;
  expect(notifier && suggestionText('notifier', [notifier], 'label')).toMatch(
    /^# notifier would reach nothing: decide this one\. Until then it is not enforced:\n# drawbridge\.mode=enforce\n# hooks.*\n# drawbridge\.allow=hooks\.slack\.com\n$/,
  );
});

it('an entry that is refused for one reason is not offered for another', () => {
  const rows = [seen('pastebin.com:80', { verdict: 'threat' }), seen('pastebin.com:443')];
  expect(suggestionText('web', [of('web', rows)], 'yaml')).not.toMatch(/^ +# - pastebin/m);
});

it('a text of another party ends neither the comment nor the label', () => {
  const known = seen('hooks.slack.com', { last: NOW });
  const [one] = [of('web', [known])];
  const left = one?.left.map((l) => ({ ...l, why: 'x\n  evil: $HOME $A # y' }));
  const text = one && left ? suggestionText('web', [{ ...one, left }], 'compose') : '';
  expect(text).toContain('# hooks.slack.com   # x evil: $$HOME $$A # y\n');
});

it.each<[string, readonly string[]]>([
  ['a.org\n# b.org   # why', ['a.org']],
  ['a.org\nb.org   # why c.org\nd.org', ['a.org', 'b.org', 'd.org']],
  ['a.org\n  # why, c.org: what!\r\nd.org', ['a.org', 'd.org']],
  ['# hooks.slack.com   # anyone can receive data there: a, b\nd.org', ['d.org']],
  ['a.org, # b.org', ['a.org']],
  ['# only a comment', []],
])('the label %j has the entries %j', (allow, entries) => {
  const facts = {
    labels: { 'drawbridge.allow': allow },
    imageLabels: {},
    imageId: 'x',
    image: 'x',
    name: 'web',
  };
  const intent = readLabels(facts as never, []);
  expect(intent.allow.map((e) => e.canonical)).toEqual(entries);
  // A label that has nothing but comments enforces as an empty one does.
  expect([intent.broken, intent.hasEntries]).toEqual([false, true]);
});

/** As YAML folds them (`>-`), or written so: what follows the comment may be entries. */
it.each([
  ['allow', '*.example.com, # api !evil.example.com'],
  ['allow', '*.example.com # api !evil.example.com'],
  ['allow', '*.example.com # api, !evil.example.com'],
  ['allow', '*.example.com # api, b.org'],
  ['allow', ', # api !evil.example.com'],
  ['allow', '# api !evil.example.com'],
  ['allow', '  # api,!evil.example.com\na.org'],
  ['allow', 'a.org\n*.example.com # api !evil.example.com'],
  ['lists', 'npm # ours, github'],
  ['list', '# ours !github'],
])('a label %s whose comment may hide entries permits nothing: %j', (key, text) => {
  const labels = { [`drawbridge.${key}`]: text };
  const intent = readLabels({ labels, imageLabels: {}, imageId: 'x', image: 'x' } as never, []);
  expect([intent.broken, intent.hasEntries, intent.allow, intent.lists]).toEqual([true, true, [], []]);
  expect(intent.notes[0]?.detail).toContain('may hide entries');
});

it('a list has comments as well, and a # within a word is none', () => {
  const facts = {
    labels: { 'drawbridge.lists': 'npm # github', 'drawbridge.allow': 'a.org#b.org' },
    imageLabels: {},
    imageId: 'x',
    image: 'x',
  };
  const intent = readLabels(facts as never, []);
  expect([intent.lists, intent.broken]).toEqual([['npm'], true]);
});
