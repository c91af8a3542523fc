import type { Command } from 'commander';
import type { ContainerBody } from '../api/schemas.js';
import type { Registry } from './command.js';
import { containersOf } from './containers.js';
import type { Output } from './output.js';

const HEAD = ['NAME', 'MODE', 'PROTECTION', 'LISTS', 'ALLOWED', 'DENIED', 'GRANTS', 'NOTES'];
const SHOWN = 2;
/** Findings that weaken nothing, and that an operator must see all the same. */
const TOLD = ['broken-label', 'missing-list'];

export function psCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined]>(program, {
    usage: 'ps [container]',
    summary: 'containers in a line each: mode, protection, lists, new connections allowed and denied, grants',
    examples: ['ps', "ps 'shop-*'", "ps --json | jq '.[] | select(.denied > 0).name'"],
    run: async (session, [container]) => {
      const { out } = session;
      const client = await session.client();
      const containers =
        container === undefined ? await client.containers() : await containersOf(client, container);
      out.show(containers, () =>
        out.table(
          HEAD,
          containers.map((c) => row(out, c)),
          'no container runs: see docker ps -a',
        ),
      );
      return 0;
    },
  });
}

function row(out: Output, c: ContainerBody): readonly string[] {
  const grants = c.grants.map((g) => (g.expires === null ? g.entry : `${g.entry} ${out.until(g.expires)}`));
  return [
    c.name,
    modeText(out, c),
    protection(c),
    c.lists.join(',') || '-',
    String(c.allowed),
    String(c.denied),
    grants.join(', ') || '-',
    [...limitWords(out, c), ...hints(c)].join('; ') || '-',
  ];
}

export const modeText = (out: Output, { mode, pausedUntil }: ContainerBody): string =>
  pausedUntil === null ? mode : `${mode} (paused ${out.until(pausedUntil)})`;

const STATES = { enforced: 'full', partial: 'partial', unenforced: 'none' } as const;

/** The coverage, and how many findings weaken it. What of it holds now depends on the mode. */
export function protection({ coverage, findings }: ContainerBody): string {
  const weak = findings.filter((f) => f.state !== 'enforced').length;
  return coverage.state === 'enforced' ? STATES.enforced : `${STATES[coverage.state]} (${weak})`;
}

/** The codes of what weakens it, and of what its labels say wrongly; drawbridge inspect has the sentences. */
function hints({ findings }: ContainerBody): readonly string[] {
  const codes = findings.filter((f) => f.state !== 'enforced' || TOLD.includes(f.code)).map((f) => f.code);
  const all = [...new Set(codes)];
  if (all.length === 0) return [];
  const more = all.length > SHOWN ? ` +${all.length - SHOWN}` : '';
  return [`${all.slice(0, SHOWN).join(', ')}${more}`];
}

/** Its limits, and what is used of its quota. */
export function limitWords(out: Output, { limits, quota }: ContainerBody): readonly string[] {
  if (limits === null) return [];
  if (!quota) return [`limit ${limits}`];
  const state = quota.reached
    ? `quota reached, ${out.until(quota.until)}`
    : `${out.size(quota.used)} of ${out.size(quota.bytes)} used`;
  return [`limit ${limits} (${state})`];
}
