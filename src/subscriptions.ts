/** The subscriptions between the parts of the service (app.ts). */
import type { App } from './app.js';
import { nameConflicts } from './changes/current-overrides.js';
import { containersToRecheck } from './enforce/learned-sets.js';
import { mayRemoveContainers } from './policy/engine.js';
import { UNATTRIBUTED_ID } from './ruleset/desired-state.js';

type Of<K extends keyof App> = Pick<App, K>;

/** Let parts act on changes of other parts. All of them are built, and none works yet. */
export function subscribe(app: App): void {
  followEngine(app);
  followBridges(app);
  followInputs(app);
  followPasses(app);
  followDenials(app);
  followThreats(app);
  followNamespaces(app);
  followRepairs(app);
}

/** Docker → feeds, changes, new namespaces, passes, DNS. */
function followEngine(
  app: Of<'docker' | 'feeds' | 'changes' | 'ignored' | 'neighbours' | 'folders' | 'config' | 'isAway'> &
    Of<'sandboxes' | 'policies' | 'namespaceDns' | 'reconciler' | 'dns' | 'departing'>,
): void {
  const { docker, feeds, changes, ignored, neighbours, folders, isAway, dns } = app;
  docker.onChange((view, change) => {
    feeds.hostChanged();
    if (mayRemoveContainers(change)) void changes.forget((id) => !view.containers.has(id));
  });
  docker.onChange((view) => ignored.check(view));
  docker.onChange((view) => neighbours.changed(view));
  docker.onChange((view, change) => {
    if (change.kind === 'connected') void folders.noteEngines(app.config.docker.socket);
    // While Docker is away, its new macvlan and ipvlan networks are not reported either.
    isAway.set(change.kind === 'disconnected' || (isAway.value === true && !view.connected));
    app.sandboxes.arm({ close: isAway.value || [...view.networks.values()].some(app.policies.isLan) });
    app.namespaceDns.reported();
    app.reconciler.trigger({ kind: 'docker', change });
    if (!view.connected) return;
    for (const id of dns.ledger.containers()) {
      if (view.containers.has(id) || id === UNATTRIBUTED_ID) continue;
      app.departing.emit(id);
      dns.forget(id);
    }
  });
}

/** Veths on bridges that Docker may have made meanwhile → passes. */
function followBridges({
  foreign,
  docker,
  reconciler,
  log,
}: Of<'foreign' | 'docker' | 'reconciler' | 'log'>): void {
  foreign.newlyUnproven.subscribe(() => {
    if (docker.view().listings === 0) return; // the list of the first connection decides
    docker.refresh().then(
      () => reconciler.trigger({ kind: 'unknown bridge' }),
      (error: unknown) =>
        log.warn({ err: String(error) }, 'a veth on an unknown bridge stays closed until Docker answers'),
    );
  });
}

/** Folder, store and quotas → passes. */
function followInputs(
  app: Of<'folderChanged' | 'listProblems' | 'state' | 'changes' | 'reconciler' | 'trustChanged' | 'quotas'>,
): void {
  const { reconciler } = app;
  app.folderChanged.subscribe((folder) => {
    app.listProblems.report([...folder.problems, ...nameConflicts(folder.lists, app.state)]);
    app.changes.rearm();
    reconciler.trigger({ kind: 'lists folder' });
  });
  app.trustChanged.subscribe(() => reconciler.trigger({ kind: 'store' }));
  app.quotas.changed.subscribe(() => reconciler.trigger({ kind: 'quota' }));
}

/** Passes → trust, packets that wait, links, namespaces, DNS. */
function followPasses(
  app: Of<'pass' | 'trust' | 'onRepaired' | 'log' | 'hold' | 'asks' | 'checks' | 'links' | 'folders'> &
    Of<'namespaceDns' | 'names' | 'appliedRevision' | 'denials'>,
): void {
  app.pass.restored.subscribe((modes) => app.trust.takeOver(modes));
  app.pass.installed.subscribe((now) => {
    if (now.repaired) {
      app.onRepaired();
      app.log.warn({}, 'rules of Drawbridge were missing or changed: repaired');
    }
    app.hold.settle();
    app.asks.settle();
    app.checks.read();
    app.links.askAgain(now.vethMap.outdated);
    app.folders.noteAll(now.view.containers);
    app.namespaceDns.applied(now);
    app.names.refreshResolvers(now.view.containers);
    app.appliedRevision.applied();
    app.denials.retain(now.view.containers);
  });
}

/** Names and packets of namespaces → denials → sockets of containers. */
function followDenials(app: Of<'nameEvents' | 'denials' | 'lan' | 'checks' | 'resets' | 'setWriters'>): void {
  const { denials, lan } = app;
  app.nameEvents.subscribe((event) => denials.name(event));
  lan.logged.subscribe((packet) => denials.packet(packet));
  app.checks.names.subscribe((checked) => denials.checked(checked));
  denials.refused.subscribe(app.resets.refused);
  app.setWriters.also(lan);
}

/** Threats → answers that were given before. */
function followThreats(app: Of<'threatsPublished' | 'dns' | 'applied' | 'pass' | 'reconciler'>): void {
  app.threatsPublished.subscribe(async (look) => {
    const containers = await containersToRecheck(app.dns, look);
    if (containers.size === 0 || !app.applied.value) return;
    app.pass.recheck(containers);
    await app.reconciler.inForce(RECHECK_MS);
  });
}

/** New namespaces → DNS and rules inside them. */
function followNamespaces(
  app: Of<'attached' | 'lan' | 'links' | 'namespaceDns' | 'sandboxes' | 'namespaces' | 'log'>,
): void {
  const { lan, namespaceDns, namespaces } = app;
  app.attached.subscribe(() => void lan.applied());
  app.links.arrived.subscribe(({ container, veth }) => namespaceDns.arrived(container, veth));
  app.sandboxes.reported.subscribe((report) => {
    if (report.kind === 'appeared') lan.appeared(report.path);
    else if (report.kind === 'prepared')
      namespaceDns.appeared(report.path, () => namespaces.prepared(report.path, report.sockets));
    else if (report.kind === 'queriedBefore') namespaceDns.askedBefore(report.path, report.error);
    else if (report.kind === 'unprepared')
      app.log.debug(
        { path: report.path, err: report.error },
        'a new network namespace could not be prepared',
      );
  });
}

/** Maintenance → trust. */
function followRepairs({
  maintenance,
  onRepaired,
  log,
  trust,
}: Of<'maintenance' | 'onRepaired' | 'log' | 'trust'>): void {
  maintenance.recordLost.subscribe(() => {
    onRepaired();
    log.warn({}, 'the record of the store in the kernel was removed: it is written again');
    trust.rewrite();
  });
}

/** For the pass that rechecks resolved names. */
const RECHECK_MS = 10_000;
