/**
 * The service without the API and all other parts that report, for LAB_SERVICE=core (drawbridge.ts): `core-service.ts run --config FILE`.
 * Tests wait for its state on the unix socket of `api.listen`, where it answers GET /readyz and GET /v1/containers/NAME in the form of the API,
 * from the state that the last pass has installed. Any other path is 404.
 */
import { rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { App } from '../../src/app.js';
import { loadConfig } from '../../src/config/load.js';
import { localSocketOf } from '../../src/config/service-socket.js';
import { runCore } from '../../src/core-service.js';
import { createLog } from '../../src/lib/log.js';
import { addressesOn } from '../../src/policy/neighbours.js';

type Answer = readonly [status: number, body: object];

/** Of a container that has rules: what is not enforced completely, such as the form of an address, is known to coverage only. */
function containerAnswer({ docker, applied }: App, name: string): Answer {
  const c = [...docker.view().containers.values()].find((one) => one.name === name || one.id === name);
  if (!c) return [404, {}];
  const subject = applied.value?.subjects.get(c.sharesWith ?? c.id);
  const addresses = c.endpoints.flatMap((e) => addressesOn(c, e.networkId));
  const state = subject ? 'enforced' : 'unenforced';
  return [200, { mode: subject?.policy.mode ?? null, coverage: { state }, addresses }];
}

function answerTo(app: App, path: string): Answer {
  if (path === '/readyz') return [app.health.readiness.ready ? 200 : 503, app.health.readiness];
  const [, name] = /^\/v1\/containers\/([^/?]+)$/.exec(path) ?? [];
  return name === undefined ? [404, {}] : containerAnswer(app, decodeURIComponent(name));
}

async function listen(app: App): Promise<void> {
  const socket = localSocketOf(app.config);
  rmSync(socket, { force: true });
  const server = createServer(({ url = '' }, response) => {
    const [status, body] = answerTo(app, url);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  app.parts.add(async () => void server.close());
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(socket, resolve));
}

const [command, option, file] = process.argv.slice(2);
if (command !== 'run' || option !== '--config' || file === undefined)
  throw new Error('usage: core-service.ts run --config FILE');
const loaded = await loadConfig({ file, env: process.env });
if (!loaded.ok) throw new Error(JSON.stringify(loaded.problems));
const { config } = loaded.value;
const service = await runCore(
  { config, log: createLog(config.log) },
  {
    closed: (_, cause) => Promise.reject(new Error(JSON.stringify(cause))),
    build: (app) => ({
      prepare: async () => undefined,
      readHost: async () => undefined,
      serve: async () => {
        await listen(app);
        return app.health.readiness;
      },
      begin: () => undefined,
    }),
  },
);
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void service.stop());
await service.done;
process.exit(0);
