import { expect, it } from 'vitest';
import { createLog } from '../../../src/observe/log.js';

function logged(format: 'json' | 'text'): { lines: string[]; log: ReturnType<typeof createLog> } {
  const lines: string[] = [];
  return { lines, log: createLog({ level: 'info', format }, { write: (line) => void lines.push(line) }) };
}

it('logs JSON with time, level and the error’s stack', () => {
  const { lines, log } = logged('json');
  log.debug({}, 'unheard');
  log.error({ err: new Error('boom'), list: 'npm' }, 'it failed');
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({
    level: 'error',
    list: 'npm',
    msg: 'it failed',
    err: { message: 'boom', stack: expect.any(String) },
  });
});

it('logs text on one line, whatever the values hold', () => {
  const { lines, log } = logged('text');
  log.warn({ err: new Error('boom\nline two'), name: 'a b', id: 'x' }, 'careful');
  expect(lines[0]).toMatch(/^\d{4}-\S+Z WARN {2}careful err="boom\\nline two" name="a b" id=x\n$/);
});
