/** The event stream of `GET /events`: JSON lines → what they mean here. Pure. */
import { asRecord, isFullId, recordAt, textAt } from './shape.js';

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

/** Cuts a byte stream into lines; a line longer than `maxBytes` is an error, so that memory stays bounded. */
export class LineCutter {
  readonly #maxBytes: number;
  #rest = Buffer.alloc(0);
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }
  /** Throws RangeError when a line outgrows the bound; the stream is then of no more use. */
  push(chunk: Buffer): readonly string[] {
    const all = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    const end = all.lastIndexOf(0x0a);
    this.#rest = Buffer.from(all.subarray(end + 1));
    if (this.#rest.length > this.#maxBytes) {
      throw new RangeError(`an event line of Docker is longer than ${this.#maxBytes} bytes`);
    }
    if (end < 0) return [];
    return all
      .subarray(0, end)
      .toString('utf8')
      .split('\n')
      .filter((l) => l.trim() !== '');
  }
}
