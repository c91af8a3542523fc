/** The subscriptions between the parts of the service (app.ts). */
import type { App } from './app.js';
import { nameConflicts } from './changes/current-overrides.js';
import { containersToRecheck } from './enforce/learned-sets.js';
import { mayRemoveContainers } from './policy/engine.js';
import { UNATTRIBUTED_ID } from './ruleset/desired-state.js';

/** Let parts act on changes of other parts. All of them are built, and none works yet. */
export function subscribe(app: App): void {
  const { log, reconciler, docker, dns, pass, trust, sandboxes, folders, namespaces, namespaceDns, changes } =
    app;
  // docker → feeds, changes, new namespaces, reconcile, DNS
  docker.onChange((view, change) => {
    app.feeds.hostChanged();
    if (mayRemoveContainers(change)) void changes.forget((id) => !view.containers.has(id));
  });
  docker.onChange((view) => app.ignored.check(view));
  docker.onChange((view) => app.neighbours.changed(view));
  docker.onChange((view, change) => {
    if (change.kind === 'connected') void folders.noteEngines(app.config.docker.socket);
    // While Docker is away, its new macvlan and ipvlan networks are not reported either.
    app.isAway.set(change.kind === 'disconnected' || (app.isAway.value === true && !view.connected));
    sandboxes.arm({ close: app.isAway.value || [...view.networks.values()].some(app.policies.isLan) });
    namespaceDns.reported();
    reconciler.trigger({ kind: 'docker', change });
    if (!view.connected) return;
    for (const id of dns.ledger.containers()) {
      if (view.containers.has(id) || id === UNATTRIBUTED_ID) continue;
      app.departing.emit(id);
      dns.forget(id);
    }
  });
  app.foreign.newlyUnproven.subscribe(() => {
    if (docker.view().listings === 0) return; // the list of the first connection decides
    docker.refresh().then(
      () => reconciler.trigger({ kind: 'unknown bridge' }),
      (error: unknown) =>
        log.warn({ err: String(error) }, 'a veth on an unknown bridge stays closed until Docker answers'),
    );
  });
  // folder, store and quotas → reconcile
  app.folderChanged.subscribe((folder) => {
    app.listProblems.report([...folder.problems, ...nameConflicts(folder.lists, app.state)]);
    changes.rearm();
    reconciler.trigger({ kind: 'lists folder' });
  });
  app.trustChanged.subscribe(() => reconciler.trigger({ kind: 'store' }));
  app.quotas.changed.subscribe(() => reconciler.trigger({ kind: 'quota' }));
  // pass → trust, held packets, links, namespaces, DNS
  pass.restored.subscribe((modes) => trust.takeOver(modes));
  pass.installed.subscribe((now) => {
    if (now.repaired) {
      app.onRepaired();
      log.warn({}, 'rules of Drawbridge were missing or changed: repaired');
    }
    app.hold.settle();
    app.asks.settle();
    app.checks.read();
    app.links.askAgain(now.vethMap.outdated);
    folders.noteAll(now.view.containers);
    namespaceDns.applied(now);
    app.names.refreshResolvers(now.view.containers);
    app.appliedRevision.applied();
    app.denials.retain(now.view.containers);
  });
  // names, packets of namespaces → denials
  app.nameEvents.subscribe((event) => app.denials.name(event));
  app.lan.logged.subscribe((packet) => app.denials.packet(packet));
  app.checks.names.subscribe((checked) => app.denials.checked(checked));
  // denials → sockets of containers
  app.denials.refused.subscribe(app.resets.refused);
  app.setWriters.also(app.lan);
  // threats → recheck
  app.threatsPublished.subscribe(async (look) => {
    const containers = await containersToRecheck(dns, look);
    if (containers.size === 0 || !app.applied.value) return;
    pass.recheck(containers);
    await reconciler.inForce(RECHECK_MS);
  });
  // new namespaces → DNS, rules in namespaces
  app.attached.subscribe(() => void app.lan.applied());
  app.links.arrived.subscribe(({ container, veth }) => namespaceDns.arrived(container, veth));
  sandboxes.reported.subscribe((report) => {
    if (report.kind === 'appeared') app.lan.appeared(report.path);
    else if (report.kind === 'prepared')
      namespaceDns.appeared(report.path, () => namespaces.prepared(report.path, report.sockets));
    else if (report.kind === 'queriedBefore') namespaceDns.askedBefore(report.path, report.error);
    else if (report.kind === 'unprepared')
      log.debug({ path: report.path, err: report.error }, 'a new network namespace could not be prepared');
  });
  // maintenance → trust
  app.maintenance.recordLost.subscribe(() => {
    app.onRepaired();
    log.warn({}, 'the record of the store in the kernel was removed: it is written again');
    trust.rewrite();
  });
}

/** For the pass that rechecks resolved names. */
const RECHECK_MS = 10_000;
