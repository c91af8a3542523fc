/** All mutants, by where the source is that they change. A new security rule gets one, and a test that fails for it. */
import { BRIDGE } from './bridge.js';
import { CONTROL } from './control.js';
import { DNS } from './dns.js';
import { HOST } from './host.js';
import { LABELS } from './labels.js';
import { LAN } from './lan.js';
import type { Mutant } from './mutant.js';
import { NEIGHBOURS } from './neighbours.js';
import { OUTSIDE } from './outside.js';
import { RULES } from './rules.js';

export const MUTANTS: readonly Mutant[] = [
  RULES,
  HOST,
  NEIGHBOURS,
  BRIDGE,
  LAN,
  CONTROL,
  DNS,
  LABELS,
  OUTSIDE,
].flat();
