/** Links and namespaces' numbers over rtnetlink. */
import { closeSync, openSync } from 'node:fs';
import { isRefusal } from './errors.js';
import {
  decodeLink,
  decodeNamespaceId,
  type Link,
  linkByIndexBody,
  linkByNameBody,
  linkDumpBody,
  namespaceIdBody,
  ROUTE_MESSAGE,
} from './route-codec.js';
import { NetlinkSocket, type Outgoing } from './socket.js';

/** The links of one network namespace. */
export class Links implements Disposable {
  readonly #requests: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /** All links. Rejects with NetlinkError. */
  list(): Promise<readonly Link[]> {
    return this.#dumps.dump(
      'list links',
      { type: ROUTE_MESSAGE.getLink, body: linkDumpBody() },
      (message) => {
        const link = decodeLink(message.body);
        return link.ok ? link.value : undefined;
      },
    );
  }

  /** One link by its name; undefined: none. Throws NetlinkError. */
  byName(name: string): Link | undefined {
    return this.#one(`find link ${name}`, linkByNameBody(name));
  }

  /** One link by its index; undefined: none. Throws NetlinkError. */
  byIndex(index: number): Link | undefined {
    return this.#one(`find link ${index}`, linkByIndexBody(index));
  }

  /**
   * A link in another namespace without entering it: `namespaceId` as this namespace numbers it (`linkNamespaceId` of a
   * veth's host end, with `peerIndex` as index). Undefined: no such link or namespace (any more). Throws NetlinkError.
   */
  getLinkInNamespace(namespaceId: number, index: number): Link | undefined {
    return this.#one(`find link ${index} in namespace ${namespaceId}`, linkByIndexBody(index, namespaceId));
  }

  /**
   * The number that this namespace has given to the one of a process or path (such as /proc/PID/ns/net). Undefined: it
   * has none (then none of our veths leads there), or the process or path is gone. Gives no number itself. Throws
   * NetlinkError.
   */
  namespaceId(of: { readonly pid: number } | { readonly path: string }): number | undefined {
    if ('pid' in of) return this.#namespaceId(`find the namespace of process ${of.pid}`, of);
    const fd = openIfThere(of.path);
    if (fd === undefined) return undefined;
    try {
      return this.#namespaceId(`find the namespace ${of.path}`, { fd });
    } finally {
      closeSync(fd);
    }
  }

  close(): void {
    this.#requests.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #one(operation: string, body: Buffer): Link | undefined {
    const answer = this.#ask(operation, { type: ROUTE_MESSAGE.getLink, body }, ['ENODEV', 'EINVAL']);
    const link = answer === undefined ? undefined : decodeLink(answer);
    return link?.ok === true ? link.value : undefined;
  }

  #namespaceId(
    operation: string,
    of: { readonly pid: number } | { readonly fd: number },
  ): number | undefined {
    const out = { type: ROUTE_MESSAGE.getNamespaceId, body: namespaceIdBody(of) };
    const answer = this.#ask(operation, out, ['ESRCH', 'EINVAL']);
    return answer === undefined ? undefined : decodeNamespaceId(answer);
  }

  /** Body of the one answer; undefined when the kernel refuses with one of the codes that mean "not there". */
  #ask(operation: string, out: Outgoing, missing: readonly string[]): Buffer | undefined {
    try {
      return this.#requests.request(operation, out)[0]?.body;
    } catch (error) {
      if (isRefusal(error, ...missing)) return undefined;
      throw error;
    }
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}
