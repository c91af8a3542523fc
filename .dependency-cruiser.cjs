/** The import table of docs/architecture.md: a room may import only what stands beside it there. */
const room = (name, ...allowed) => ({
  name: `${name}-imports`,
  severity: 'error',
  from: { path: `^src/${name}/` },
  to: { path: '^src/', pathNot: `^src/(${[name, ...allowed].join('|')})` },
});
const only = (pkg, where) => ({
  name: `${pkg}-only-in-${where.replace(/[^a-z]/g, '-')}`,
  severity: 'error',
  from: { path: '^src/', pathNot: `^src/${where}` },
  to: { path: `node_modules/${pkg}(/|$)` },
});
module.exports = {
  forbidden: [
    {
      name: 'no-circular',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    room('model'),
    room('desired', 'model/'),
    room('threads'),
    room('kernel', 'threads/', 'model/', 'desired/', 'ports\\.ts'),
    room('docker', 'model/', 'ports\\.ts'),
    room('dns', 'model/', 'ports\\.ts'),
    room('packets', 'model/', 'ports\\.ts'),
    room('store', 'model/', 'ports\\.ts'),
    room('threats', 'threads/', 'model/', 'ports\\.ts'),
    room('control', 'model/', 'desired/', 'ports\\.ts'),
    room('api', 'model/', 'ports\\.ts'),
    room('cli', 'model/', 'api/client\\.ts', 'api/schemas(-feeds|-flows|-fleet)?\\.ts', 'config/'),
    room('config', 'threads/', 'model/'),
    room('observe', 'model/', 'ports\\.ts'),
    {
      name: 'root-is-a-leaf',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/((main|app)\\.ts$|service/)' },
      to: { path: '^src/((main|app)\\.ts$|service/)' },
    },
    only('execa', 'kernel/(exec|tool-process)\\.ts$'),
    only('koffi', 'kernel/netlink/'),
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
