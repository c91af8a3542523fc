/** What keeps the heap of a service small whose load comes in bursts. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * Call it before other modules are loaded: V8 lets the young generation grow to 3 x 16 MiB in the first second and does not shrink
 * it, and lets the old one double before it collects. This bounds the first one at its initial size, and makes the second one grow in
 * small steps. Each is measured in docs/performance.md.
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--optimize-for-size');
}

/** Collects what the start has left: nothing else would, until the load of days has filled the heap once more. It takes 40 to 100 ms. */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  setFlagsFromString('--no-expose-gc');
  if (typeof collect === 'function') collect();
}
