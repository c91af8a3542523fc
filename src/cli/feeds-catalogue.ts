import type { Command } from 'commander';
import type { Registry } from './command.js';
import type { CatalogueEntry } from './host.js';
import type { Output } from './output.js';

const HEAD = ['NAME', 'RECOMMENDED', 'BY DEFAULT', 'DIRECTION', 'EVERY', 'LICENCE', 'WHAT'];

export function catalogueCommand(feeds: Command, registry: Registry): void {
  registry.add<[string | undefined]>(feeds, {
    usage: 'catalogue [name]',
    summary: 'public feeds worth knowing, with their terms; with a name: what to write to turn it on',
    examples: ['feeds catalogue', 'feeds catalogue spamhaus-drop'],
    run: async ({ out, host }, [name]) => {
      const all = await host.catalogue();
      const chosen = name === undefined ? all : all.filter((entry) => entry.name === name);
      out.show(chosen, () => {
        if (name === undefined) printAll(out, chosen);
        else for (const entry of chosen) printOne(out, entry);
      });
      if (name === undefined || chosen.length > 0) return 0;
      out.note(`the catalogue has no feed ${name}: see drawbridge feeds catalogue`);
      return 1;
    },
  });
}

function printAll(out: Output, all: readonly CatalogueEntry[]): void {
  out.table(HEAD, all.map(row));
  out.note('to turn one on: drawbridge feeds catalogue NAME says what to write under threats.feeds');
  out.note(
    'threats.catalogue: true turns on those that are on by default; whoever turns a feed on accepts its terms',
  );
}

const yesNo = (yes: boolean): string => (yes ? 'yes' : 'no');

const row = (e: CatalogueEntry): readonly string[] => [
  e.name,
  yesNo(e.recommended),
  yesNo(e.enabled),
  e.direction,
  `${e.everyHours}h`,
  e.licence,
  e.what,
];

/** Ready to be put into the configuration. */
function printOne(out: Output, e: CatalogueEntry): void {
  out.line(`# ${e.what}`);
  out.line(`# ${e.licence}: ${e.terms}`);
  if (!e.recommended)
    out.line('# not recommended for what containers reach out to: try it with action: observe first');
  out.line('threats:');
  out.line('  feeds:');
  out.line(`    - name: ${e.name}`);
  out.line(`      url: "${e.url}"`);
  out.line(`      format: ${e.format}`);
  out.line(`      every: ${e.everyHours}h`);
  out.line(`      direction: ${e.direction}`);
  out.line(`      action: ${e.recommended ? 'block' : 'observe'}`);
  if (e.mayBeEmpty === true) out.line('      guards: { minEntries: 0 }');
}
