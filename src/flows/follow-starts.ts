import type { DockerView } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { ownerKey } from '../policy/own-labels.js';
import type { FlowStore } from './flow-store.js';

/** The event of a start may arrive later than the first packet of the container. */
const START_MS = 10_000;

/** The owner of a container is recorded since its first start, or since the service has found it running. */
export function followStarts(
  docker: Pick<Engine, 'view' | 'onChange'>,
  flows: Pick<FlowStore, 'begunAgain' | 'started'>,
): void {
  const seen = new Set<string>();
  const found = (view: DockerView, started?: string): void => {
    for (const facts of view.containers.values()) {
      const isStart = facts.id === started;
      if (facts.state !== 'running' || (seen.has(facts.id) && !isStart)) continue;
      seen.add(facts.id);
      const since = isStart ? Date.now() - START_MS : undefined;
      flows.started({ owner: ownerKey(facts), id: facts.id, name: facts.name, isStart, since });
    }
    for (const id of seen) if (!view.containers.has(id)) seen.delete(id);
  };
  flows.begunAgain.subscribe(() => {
    seen.clear();
    found(docker.view());
  });
  docker.onChange((view, change) => {
    const isStart =
      change.kind === 'event' && change.event.kind === 'container' && change.event.action === 'start';
    found(view, isStart ? change.event.id : undefined);
  });
}
