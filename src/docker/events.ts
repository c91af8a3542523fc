/** The event stream of `GET /events`: JSON lines → what they mean here. Pure. */
import { asRecord, isFullId, recordAt, textAt } from './json.js';

/** Events asked of the engine; exec, health, attach and the like would only be noise. */
export const EVENT_FILTERS = {
  type: ['container', 'network'],
  event: [
    'create',
    'start',
    'die',
    'destroy',
    'pause',
    'unpause',
    'rename',
    'connect',
    'disconnect',
    'remove',
  ],
};

export type ContainerAction = 'create' | 'start' | 'die' | 'destroy' | 'pause' | 'unpause' | 'rename';
export type DockerEvent =
  | { readonly kind: 'container'; readonly action: ContainerAction; readonly id: string }
  | {
      readonly kind: 'attach';
      readonly action: 'connect' | 'disconnect';
      readonly network: string;
      readonly id: string;
    }
  | { readonly kind: 'network'; readonly action: 'create' | 'destroy'; readonly network: string };

/** Why the view has changed: the connection, an event, or an answer of the engine to a request for `id`. */
export type ViewChange =
  | { readonly kind: 'connected' | 'disconnected' | 'list' }
  | { readonly kind: 'event'; readonly event: DockerEvent }
  | {
      readonly kind: 'inspect';
      readonly object: 'container' | 'network' | 'services' | 'image';
      readonly id: string;
    };

/** The change as one text for logs, such as `container start 0123456789ab`. */
export function describeChange(change: ViewChange): string {
  if (change.kind === 'event') {
    const { event } = change;
    const id = event.kind === 'network' ? event.network : event.id;
    return `${event.kind === 'container' ? 'container' : 'network'} ${event.action} ${id.slice(0, 12)}`;
  }
  if (change.kind !== 'inspect') return change.kind;
  const { object, id } = change;
  return `${object === 'container' ? 'inspect' : object} ${id.slice(0, object === 'image' ? 19 : 12)}`;
}

/** Whether the view may have lost a container by this change. */
export function mayRemoveContainers(change: ViewChange): boolean {
  if (change.kind === 'event') return change.event.kind === 'container' && change.event.action === 'destroy';
  return change.kind === 'list' || change.kind === 'connected';
}

const CONTAINER_ACTIONS: ReadonlySet<string> = new Set<ContainerAction>([
  'create',
  'start',
  'die',
  'destroy',
  'pause',
  'unpause',
  'rename',
]);

function networkEvent(
  action: string,
  network: string,
  container: string,
): DockerEvent | 'ignored' | 'malformed' {
  if (action === 'create') return { kind: 'network', action, network };
  if (action === 'destroy' || action === 'remove') return { kind: 'network', action: 'destroy', network };
  if (action !== 'connect' && action !== 'disconnect') return 'ignored';
  // Swarm's load balancers connect under names that are no container id.
  return isFullId(container) ? { kind: 'attach', action, network, id: container } : 'ignored';
}

/**
 * One line of the stream. Of a container's event only its id is taken: the engine merges the container's labels with
 * the attributes `name`, `image`, `oldName`, `exitCode` (moby daemon/events.go: labels win over all but `name` and
 * `image`, which hide labels of these names), so that an image can forge them; names and labels come from the list.
 */
export function readEvent(line: string): DockerEvent | 'ignored' | 'malformed' {
  const json = asRecord(parsed(line));
  if (!json) return 'malformed';
  const actor = recordAt(json, 'Actor');
  const id = textAt(actor, 'ID');
  const action = textAt(json, 'Action');
  if (textAt(json, 'Type') === 'network') {
    return id ? networkEvent(action, id, textAt(recordAt(actor, 'Attributes'), 'container')) : 'malformed';
  }
  if (textAt(json, 'Type') !== 'container' || !CONTAINER_ACTIONS.has(action)) return 'ignored';
  return isFullId(id) ? { kind: 'container', action: action as ContainerAction, id } : 'malformed';
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/**
 * Cuts a byte stream into lines. Of a line that is longer than `maxBytes` only the beginning is kept, which is no JSON: the reader of the
 * events then lists again. The pieces of a line are joined once, when its end has come: joining them at each chunk would take a time
 * that grows with the square of the line's length.
 */
export class LineCutter {
  readonly #maxBytes: number;
  #rest: Buffer[] = [];
  #length = 0;
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  push(chunk: Buffer): readonly string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      this.#keep(chunk.subarray(start, end));
      const line = Buffer.concat(this.#rest).toString('utf8');
      if (line.trim() !== '') lines.push(line);
      this.#rest = [];
      this.#length = 0;
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  #keep(piece: Buffer): void {
    const kept = piece.subarray(0, this.#maxBytes - this.#length);
    if (kept.length === 0) return;
    this.#rest.push(Buffer.from(kept));
    this.#length += kept.length;
  }
}
