import { type ResourceLimits, Worker } from 'node:worker_threads';

/** Starts a thread from a module of this program, compiled or from sources. `script`: its URL, ending in ".js". */
export function startThread(script: URL, resourceLimits: ResourceLimits = {}): Worker {
  if (!import.meta.url.endsWith('.ts')) return new Worker(script, { resourceLimits });
  // From sources: threads do not inherit the TypeScript loader.
  const url = JSON.stringify(script.href.replace(/js$/, 'ts'));
  return new Worker(`import('tsx/esm/api').then(({ register }) => { register(); return import(${url}); })`, {
    eval: true,
    resourceLimits,
  });
}
