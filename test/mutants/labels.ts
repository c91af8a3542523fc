/** Labels of the container, and labels of its image. */
import type { Mutant } from './mutant.js';

export const LABELS: readonly Mutant[] = [
  {
    id: 'label-comment-hides',
    what: 'a comment in a label hides deny entries that YAML has folded into its line',
    file: 'src/policy/labels.ts',
    from: 'return problems.length > 0 ? { ok: false, problems } : read(',
    to: 'return read(',
    killedBy: { file: 'test/pure/suggest/suggestion-text.test.ts', test: 'whose comment may hide entries' },
  },
  {
    id: 'text-unseen',
    what: 'characters without a width and marks of direction reach people as they are',
    file: 'src/lib/foreign-text.ts',
    from: '[\\p{Cc}\\p{Cf}\\p{Zl}',
    to: '[\\p{Cc}\\p{Zl}',
    killedBy: {
      file: 'test/pure/lib/foreign-text.test.ts',
      test: 'each class has one replacement a character, and other text stays',
    },
  },
  {
    id: 'label-compose-image',
    what: 'a compose label of the image counts as the container’s',
    file: 'src/policy/own-labels.ts',
    from: '  if (BY_COMPOSE.has(key)) return isMadeByCompose(facts);\n',
    to: '  if (BY_COMPOSE.has(key)) return true;\n',
    killedBy: { file: 'test/pure/policy/own-labels.test.ts', test: "the image's" },
  },
  {
    id: 'label-compose-other-image',
    what: 'com.docker.compose.image proves a label whatever image it names',
    file: 'src/policy/own-labels.ts',
    from: 'image !== undefined && image === imageId && DIGEST.test(imageId)',
    to: 'image !== undefined',
    killedBy: { file: 'test/pure/policy/own-labels.test.ts', test: 'recorded for another image' },
  },
  {
    id: 'label-equal',
    what: 'a label that equals the image’s counts as the container’s',
    file: 'src/policy/own-labels.ts',
    from: '  if (!equalsImage(facts, key)) return true;\n',
    to: '  return true;\n',
    killedBy: { file: 'test/pure/policy/own-labels.test.ts', test: 'what is ignored is listed' },
  },
  {
    id: 'label-mode-loosens',
    what: 'the mode of a service that only the image names loosens',
    file: 'src/policy/policy-compile.ts',
    from: 'if (strictest === undefined || byStrictness(own.mode, strictest.mode) <= 0) return own;',
    to: 'if (strictest === undefined) return own;',
    killedBy: { file: 'test/pure/policy/policy.test.ts', test: 'an image cannot pose as a service' },
  },
];
