/** All mutants, by where the source is that they change. A new security rule gets one, and a test that fails for it. */
import { CONTROL } from './control.js';
import { LAN } from './lan.js';
import type { Mutant } from './mutant.js';
import { RULES } from './rules.js';

export const MUTANTS: readonly Mutant[] = [...RULES, ...LAN, ...CONTROL];
