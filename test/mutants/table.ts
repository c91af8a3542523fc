/** All mutants, by where the source is that they change. A new security rule gets one, and a test that fails for it. */
import { BINDING } from './binding.js';
import { BRIDGE } from './bridge.js';
import { CHECKS } from './checks.js';
import { CONTROL } from './control.js';
import { COVERAGE } from './coverage.js';
import { DENY } from './deny.js';
import { DNS } from './dns.js';
import { FIGURES } from './figures.js';
import { FRAMES } from './frames.js';
import { GENERATED } from './generated.js';
import { LABELS } from './labels.js';
import { LAN } from './lan.js';
import { LAYERS } from './layers.js';
import { LISTS } from './lists.js';
import type { Mutant } from './mutant.js';
import { NAMES } from './names.js';
import { NEIGHBOURS } from './neighbours.js';
import { OUTSIDE } from './outside.js';
import { READERS } from './readers.js';
import { RULES } from './rules.js';
import { START } from './start.js';

export const MUTANTS: readonly Mutant[] = [
  RULES,
  FRAMES,
  GENERATED,
  LAYERS,
  NEIGHBOURS,
  BRIDGE,
  LAN,
  CONTROL,
  BINDING,
  DENY,
  DNS,
  FIGURES,
  NAMES,
  COVERAGE,
  LABELS,
  LISTS,
  OUTSIDE,
  READERS,
  CHECKS,
  START,
].flat();
