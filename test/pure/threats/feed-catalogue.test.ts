/** The catalogue is sound, and its page says the same. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FEED_FORMATS, feedProblems } from '../../../src/config/feed-config.js';
import { CATALOGUE } from '../../../src/threats/feed-catalogue.js';
import { feedSpec, settingsFor } from '../../../src/threats/feed-spec.js';

const page = readFileSync('docs/feeds.md', 'utf8');

describe('the catalogue', () => {
  it('has names of its own and configurations without problems', () => {
    expect(new Set(CATALOGUE.map(({ name }) => name)).size).toBe(CATALOGUE.length);
    for (const entry of CATALOGUE) {
      const spec = feedSpec(settingsFor(entry));
      expect(feedProblems(spec)).toEqual([]);
      expect(spec.minIntervalMs).toBeGreaterThanOrEqual(3_600_000);
    }
  });

  it('turns on only what is recommended and asks nothing of its user', () => {
    for (const { enabled, recommended, licence, direction } of CATALOGUE)
      if (enabled) {
        expect([recommended, direction]).toEqual([true, 'outbound']);
        expect(licence).toMatch(/^(CC0-1\.0|Unlicense|MIT)/);
      }
    expect(CATALOGUE.some(({ enabled }) => enabled)).toBe(true);
  });

  it('is what docs/feeds.md shows, row by row', () => {
    const mark = (flag: boolean): string => (flag ? 'yes' : 'no');
    for (const feed of CATALOGUE)
      expect(page).toContain(
        `| \`${feed.name}\` | ${feed.what} | ${feed.direction} | ${feed.everyHours} h | [${feed.licence}](${feed.terms}) | ${mark(feed.recommended)} | ${mark(feed.enabled)} |`,
      );
  });

  it('the page names every format', () => {
    for (const name of FEED_FORMATS) expect(page).toContain(`\`${name}\``);
  });
});
