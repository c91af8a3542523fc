import { createHash } from 'node:crypto';
import type { NftProgram } from '../ruleset/nft-program.js';
import type { KernelConfig } from '../ruleset/state.js';

/** A table as it stands: its rules' tags in order. */
export interface ObservedProgram {
  readonly exists: boolean;
  readonly rules: readonly string[];
}
const TAG_LENGTH = 12;

/** "CHAIN TAG:PLACE" of every rule of a program, as its comments tell it back. */
export function programTags(shape: KernelConfig, program: NftProgram): string[] {
  const tag = tagOf(shape, program);
  return [...program.rules].flatMap(([chain, all]) => all.map((_, n) => ruleTag(chain, `${tag}:${n}`)));
}
export const ruleTag = (chain: string, comment: string): string => `${chain} ${comment}`;

/** "LAYOUT-HASH": how marks are laid out, and the program itself. */
function tagOf(shape: KernelConfig, { declarations, rules, objects = [] }: NftProgram): string {
  const hash = createHash('sha256')
    .update([declarations, ...[...rules].flat(2), ...objects].join('\n'))
    .digest('hex')
    .slice(0, TAG_LENGTH);
  return `${layoutOf(shape)}-${hash}`;
}
export const layoutOf = (shape: KernelConfig): string => shape.marks.all.toString(16);

/** The nft text that loads a program over whatever stands of it: what is missing is declared, every chain emptied and filled
 *  again; empty when it stands already. */
export function programScript(shape: KernelConfig, program: NftProgram, observed: ObservedProgram): string {
  if (byChain(observed.rules).join() === byChain(programTags(shape, program)).join()) return '';
  const tag = tagOf(shape, program);
  const table = (body: string): string => `table ${program.table} {${body}\n}\n`;
  const flush = [...program.rules.keys()].map((chain) => `flush chain ${program.table} ${chain}`);
  const filled = [...program.rules].map(
    ([chain, all]) => `
  chain ${chain} {${all.map((r, n) => `\n    ${r} comment "${tag}:${n}"`).join('')}\n  }`,
  );
  return `${table(program.declarations)}${lines(flush)}${table(filled.join(''))}`;
}

/** Chains have no order among themselves, their rules have. By code units: the locale of the process must not matter. */
const byChain = (tags: readonly string[]): string[] =>
  [...tags].sort((a, b) => order(chainOf(a), chainOf(b)));
const order = (a: string, b: string): number => (a < b ? -1 : Number(a > b));
const chainOf = (tag: string): string => tag.slice(0, tag.indexOf(' '));

export const lines = (l: readonly string[]): string => (l.length === 0 ? '' : `${l.join('\n')}\n`);
