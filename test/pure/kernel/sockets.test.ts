import { describe, expect, it } from 'vitest';
import { configuredRoot, optionOf } from '../../../src/kernel/sockets.js';

describe('exec root of dockerd', () => {
  it.each([
    [['dockerd', '--exec-root=/run/snap.docker'], '/run/snap.docker'],
    [['dockerd', '-H', 'fd://', '--exec-root', '/run/x', ''], '/run/x'],
    [['dockerd', '--exec-roots=/run/x'], undefined],
    [['dockerd', '--exec-root'], undefined],
    [['dockerd', '-H', 'fd://'], undefined],
  ])('%j', (argv, root) => expect(optionOf(argv, 'exec-root')).toBe(root));

  it.each([
    ['{"exec-root": "/run/y", "debug": true}', '/run/y'],
    ['{"exec-root": ""}', undefined],
    ['{"exec-root": 5}', undefined],
    ['{}', undefined],
    ['null', undefined],
    ['{"exec-root": "/run', undefined],
  ])('%s', (text, root) => expect(configuredRoot(text)).toBe(root));
});
