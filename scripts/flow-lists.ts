/** The flows of scripts/flows.json. */

import flows from './flows.json' with { type: 'json' };
import executed from './flows-executed.json' with { type: 'json' };

export interface Flow {
  readonly name: string;
  readonly what: string;
  /** Files that it may pass. */
  readonly most: number;
  readonly steps: readonly { readonly file: string; readonly symbol: string; readonly does: string }[];
}

export const FLOWS: readonly Flow[] = Object.entries(flows).map(([name, { what, most, steps }]) => ({
  name,
  what,
  most,
  steps: steps.map(([file = '', symbol = '', does = '']) => ({ file: `src/${file}`, symbol, does })),
}));

export const filesOf = (flow: Flow): readonly string[] => [...new Set(flow.steps.map((s) => s.file))];

/** Files that the running service executed, by flow: `npm run flows -- --trace` writes scripts/flows-executed.json. */
export type Executed = Readonly<Record<string, number>>;
export const EXECUTED: Executed = executed;
