import { isRecord } from '../lib/json.js';
import { VERSION } from '../lib/version.js';
import type { Audit } from './audit.js';

/** Records about the service itself. None of them keeps it from starting, ending or being torn down. */
type Sink = Pick<Audit, 'recordOrWait'>;

/** `changed`: the keys of the configuration that differ, where it starts because of SIGHUP. */
export async function recordStart(audit: Sink, node: string, changed?: readonly string[]): Promise<void> {
  const action = changed ? 'config.reload' : 'service.start';
  const after = { version: VERSION, ...(changed && { changed }) };
  await audit.recordOrWait({ who: 'drawbridge', action, target: node, before: null, after, outcome: 'done' });
}

export async function recordStop(audit: Sink, node: string): Promise<void> {
  const record = { who: 'drawbridge', action: 'service.stop', target: node, before: null, after: null };
  await audit.recordOrWait({ ...record, outcome: 'done' });
}

/** Before it is done: afterwards there may be nothing to record it in. */
export async function recordTeardown(audit: Sink, node: string, who: string): Promise<void> {
  const record = { who, action: 'teardown', target: node, before: null, after: null };
  await audit.recordOrWait({ ...record, outcome: 'done' });
}

/** Paths of the keys that differ, without their values: some are secrets. */
export function changedKeys(before: unknown, after: unknown, path = ''): readonly string[] {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  if (!isRecord(before) || !isRecord(after)) return [path];
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((key) =>
    changedKeys(before[key], after[key], path === '' ? key : `${path}.${key}`),
  );
}
