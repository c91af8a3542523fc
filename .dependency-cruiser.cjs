/** Bottom first: a module may import only itself and those before it (docs/architecture.md). Types count. */
const ORDER = [
  'lib',
  'events',
  'policy',
  'config',
  'ruleset',
  'kernel',
  'docker',
  'store',
  'threats',
  'dns',
  'connections',
  'enforce',
  'netns-rules',
  'flows',
  'changes',
  'ask',
  'coverage',
  'suggest',
  'ops',
  'notify',
  'api',
  'cli',
];
const floors = ORDER.map((name, i) => ({
  name: `${name}-imports`,
  severity: 'error',
  from: { path: `^src/${name}/` },
  to: { path: '^src/', pathNot: `^src/(${ORDER.slice(0, i + 1).join('|')})/` },
}));
const only = (pkg, where) => ({
  name: `${pkg}-only-in-${where.replace(/[^a-z]/g, '-')}`,
  severity: 'error',
  from: { path: '^src/', pathNot: `^src/${where}` },
  to: { path: `node_modules/${pkg}(/|$)` },
});
module.exports = {
  forbidden: [
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    ...floors,
    only('execa', 'kernel/(exec|tool-process)\\.ts$'),
    only('koffi', 'kernel/netlink/'),
    only('libsql', 'flows/flow-file\\.ts$'),
    only('dockerode', 'docker/'),
    only('ioredis', 'store/redis'),
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.json'] },
  },
};
