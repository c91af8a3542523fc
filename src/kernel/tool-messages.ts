/** What the service and the process that starts its tools send each other. */
import type { ExecOptions, ExecResult } from './exec.js';

export interface ToolRequest {
  readonly id: number;
  readonly file: string;
  readonly args: readonly string[];
  readonly options: ExecOptions;
}
/** Of the process itself: it takes requests from now on. */
export interface ToolsReady {
  readonly ready: true;
}
/** Of one request: it has started, has ended, or could not be run to its end. */
export type ToolReport =
  | { readonly id: number; readonly pid: number }
  | { readonly id: number; readonly result: ExecResult }
  | { readonly id: number; readonly failure: string };
