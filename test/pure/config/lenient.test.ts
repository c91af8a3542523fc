import { expect, it } from 'vitest';
import { lenient } from '../../../src/config/load.js';

const read = (text: string, env = {}, flags = {}) => lenient({ text, env, flags });

it('keys of kernel are read next to what is wrong', () => {
  expect(read('dnss: {}\nkernel: { prefix: XY }\nstate: /s\n')).toMatchObject({
    kernel: { prefix: 'XY' },
    state: '/s',
  });
});
it('of a section that is wrong in part the valid keys are read', () => {
  const { kernel } = read('kernel:\n  prefix: XY\n  markMask: nonsense\n  unknown: 1\n');
  expect([kernel.prefix, kernel.markMask]).toEqual(['XY', read('').kernel.markMask]);
});
it('of a file that is no YAML the blocks that are', () => {
  expect(read('default: [\nkernel:\n  prefix: XY\n# remark\nfailure: open\n  : :\n')).toMatchObject({
    kernel: { prefix: 'XY' },
  });
});
it('environment and flags are read where they are valid', () => {
  const env = {
    DRAWBRIDGE_KERNEL_PREFIX: 'EN',
    DRAWBRIDGE_BOGUS: '1',
    DRAWBRIDGE_API_TOKENS_FILE: '/x',
    PATH: '/',
  };
  expect(read('', env).kernel.prefix).toBe('EN');
  expect(read('', env, { 'kernel.prefix': 'FL', bogus: 'x' }).kernel.prefix).toBe('FL');
});
it('else the defaults hold', () => {
  expect(read('\u0000\u0001 {{{')).toEqual(read(''));
});
