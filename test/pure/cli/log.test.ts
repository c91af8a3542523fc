import { expect, it } from 'vitest';
import { createLog } from '../../../src/lib/log.js';

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

it('cuts long values, and escapes what a terminal would obey', () => {
  for (const format of ['json', 'text'] as const) {
    const { lines, log } = logged(format);
    const label = `a\u001b[2J\u009b\u202e${'x'.repeat(100_000)}`;
    log.warn(
      { label, err: new Error(label), labels: [label], all: new Array(5_000).fill('y') },
      `of ${'\u001b'}[31m`,
    );
    expect(lines).toHaveLength(1);
    expect(lines[0]?.length).toBeLessThan(12_000);
    expect(lines[0]?.trimEnd()).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
    if (format === 'json')
      expect(JSON.parse(lines[0] ?? '').label).toMatch(/^a\u001b\[2J\u009b\u202ex+… \(100007 characters\)$/);
  }
});
