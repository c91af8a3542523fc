/** What the bundles of dist (scripts/build.mjs) and those of the tests (scripts/test-parts.mjs) have in common. */
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '..');
/** Started by path: see startedModule (lib/thread.ts). */
export const STARTED = [
  'config/list-thread',
  'flows/flow-process',
  'flows/passed-thread',
  'kernel/tool-runner',
  'namespaces/sandbox-thread',
  'threats/feed-worker',
];
export const partOf = (file) => ({ in: `src/${file}.ts`, out: `parts/${file.split('/')[1]}` });
export const IMPORT_META_URL = "const importMetaUrl=require('node:url').pathToFileURL(__filename).href;";
export const common = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: 'node',
  target: 'node20',
  // They are not inside, as they have a library of their own for each platform.
  external: ['koffi', 'libsql'],
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 160,
  legalComments: 'none', // see NOTICE
  sourcemap: true,
  sourcesContent: false,
  metafile: true,
  logLevel: 'warning',
};
export const commonjs = {
  ...common,
  outExtension: { '.js': '.cjs' },
  format: 'cjs',
  banner: { js: IMPORT_META_URL },
  define: { 'import.meta.url': 'importMetaUrl' },
  supported: { 'dynamic-import': false }, // require() instead, which needs no loader of ES modules
  logOverride: { 'empty-import-meta': 'silent' }, // lib/thread.ts uses more of it from sources only
};
