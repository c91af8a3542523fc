import { buildServer } from './api/api-server.js';
import { peerOf } from './api/auth.js';
import { ClosedService } from './api/closed-service.js';
import { listen } from './api/listen.js';
import { Views } from './api/views.js';
import type { App } from './app.js';
import { Fleet } from './changes/fleet.js';
import { FailedLogins } from './changes/service-records.js';
import { tokenKey } from './changes/stored-state.js';
import { localSocketOf } from './config/service-socket.js';
import { type Lifetime, type Reporter, type RunOptions, runCore } from './core-service.js';
import { Counts } from './kernel/counts.js';
import { exec } from './kernel/exec.js';
import { keptSockets } from './kernel/netlink/kept-sockets.js';
import { steadyNow } from './lib/clock.js';
import { Turns } from './lib/shared-read.js';
import { VERSION } from './lib/version.js';
import type { Service } from './ops/service-manager.js';
import { teardownKernel } from './ops/teardown.js';
import { beginReporting, buildReporting, type Reporting } from './reporting.js';

/** Starts the service with all that reports, and with the API. Rejects as `runCore` does. */
export const runService = (options: RunOptions): Promise<Service> =>
  runCore(options, { closed: (closed, cause) => ClosedService.begin(closed, cause), build: buildReporter });

function buildReporter(app: App): Reporter {
  const reporting = buildReporting(app);
  const { hostWatch } = reporting;
  let api: Api;
  return {
    prepare: async (run) => {
      api = await buildApi(app, reporting, run);
    },
    readHost: () => app.begun.use(hostWatch).start(),
    serve: () => serve(app, reporting, api),
    begin: () => {
      hostWatch.followMounts();
      beginReporting(reporting);
    },
  };
}

type Api = Awaited<ReturnType<typeof buildApi>>;

/** Builds the API over all parts. It does not listen yet. */
async function buildApi(app: App, reporting: Reporting, { stop, faults }: Lifetime) {
  const { config, log, shared, parts, node, trust, feeds, audit, changes } = app;
  const { reconciler, pass, docker, denials, threats, quotas, namespaceDns, lan, sandboxes, shape } = app;
  const { store, kind, beats } = shared;
  const turns = new Turns(() => reconciler.resting === undefined);
  const counts = new Counts({ exec, kernel: app.kernel, hostMode: app.hostMode }, shape.prefix, turns);
  const fleet = parts.use(new Fleet({ node, beats, log }));
  const views = new Views({
    ...app,
    hostWatch: reporting.hostWatch,
    canary: reporting.canary,
    passed: reporting.passed,
    flows: reporting.flows,
    reportingFaults: () => reporting.faults.list(),
    enforcer: pass,
    store,
    storeKind: kind,
    fleet,
    faults,
    counts,
    turns,
  });
  const teardown = async (): Promise<void> => {
    keptSockets.end();
    await reporting.canary[Symbol.asyncDispose]();
    await trust.close();
    await reconciler.stop();
    await threats.close();
    await quotas[Symbol.asyncDispose]();
    await sandboxes[Symbol.asyncDispose]();
    await namespaceDns.detachAll();
    await lan.removeAll();
    await teardownKernel(config);
    setImmediate(() => void stop());
  };
  const isConfigured = (name: string): boolean => config.api.tokens.some((token) => token.name === name);
  const authenticate = (secret: string) => {
    const found = changes.tokens.authenticate(secret);
    const counts =
      found && (isConfigured(found.name) || trust.believes(tokenKey(found.name), app.revisionOf));
    return counts ? found : undefined;
  };
  const { seen: onRefused } = parts.use(new FailedLogins(audit, log, steadyNow));
  const context = {
    node,
    changes,
    audit,
    store,
    trust,
    fleet,
    feeds,
    docker,
    denials,
    reconciler,
    views,
    teardown,
    ...reporting,
  };
  const hasTokens = (): boolean => changes.tokens.count > 0;
  const { small } = app;
  const server = await buildServer({ context, log, small, authenticate, hasTokens, peerOf, onRefused });
  parts.add(() => server.close());
  return { server, views, fleet };
}

/** Opens the API. */
async function serve(
  app: Pick<App, 'config' | 'log' | 'shared' | 'parts' | 'appliedRevision'>,
  { faults }: Reporting,
  { server, views, fleet }: Api,
): ReturnType<Reporter['serve']> {
  const { config, log, shared, parts, appliedRevision } = app;
  const { store } = shared;
  parts.use(views.followCounts(log));
  const localSocket = localSocketOf(config);
  const listening = parts.use(await listen(server, { address: config.api.listen, localSocket, log }));
  faults.add(() => listening.warnings());
  const beginFleet = (): void =>
    fleet.begin(() => ({
      version: VERSION,
      revision: appliedRevision.value,
      inSync: views.ready().ready && store.health().ok,
      ...views.census(),
    }));
  const fleetTimer = setTimeout(beginFleet, FIRST_BEAT_MS);
  parts.add(async () => clearTimeout(fleetTimer));
  return { ...views.ready(), api: config.api.listen };
}

/** The first sign of life has the coverage of all containers, which takes 0.9 s for 1,000 of them: the start does not wait for it. */
const FIRST_BEAT_MS = 1_000;
