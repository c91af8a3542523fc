import { expect, it } from 'vitest';
import type { Exec } from '../../../src/kernel/exec.js';
import { destroySets } from '../../../src/ops/teardown.js';

/** As the kernel: `busy` are still held by rules that were removed a moment ago, for as many tries. */
function ipset(present: string[], busy: Map<string, number>) {
  const run: Exec = async (_file, args, options) => {
    if (args[0] === 'list') return { code: 0, stdout: `${present.join('\n')}\n`, stderr: '' };
    for (const line of options?.input?.trim().split('\n') ?? []) {
      const name = line.replace('destroy ', '');
      const left = busy.get(name) ?? 0;
      busy.set(name, left - 1);
      if (left > 0)
        return { code: 1, stdout: '', stderr: 'Set cannot be destroyed: it is in use by a kernel component' };
      present.splice(present.indexOf(name), 1);
    }
    return { code: 0, stdout: '', stderr: '' };
  };
  return { run, present };
}

it('sets that removed rules still hold are destroyed when the kernel has released them', async () => {
  const kernel = ipset(['DB-a', 'other', 'DB-b', 'DB-c'], new Map([['DB-b', 3]]));
  await destroySets(kernel.run, new Set(['DB-a', 'DB-b', 'DB-c', 'DB-gone']));
  expect(kernel.present).toEqual(['other']);
});

it('a set that stays in use is told', async () => {
  const kernel = ipset(['DB-a', 'DB-b'], new Map([['DB-b', Number.POSITIVE_INFINITY]]));
  await expect(destroySets(kernel.run, new Set(['DB-a', 'DB-b']), performance.now() + 100)).rejects.toThrow(
    /in use/,
  );
  expect(kernel.present).toEqual(['DB-b']);
});
