/** Members and listings of kernel sets over netlink; making and destroying sets is the apply step's. */
import type { SetWriter } from '../set-writer.js';
import { type ErrorDetail, isRefusal, NetlinkError } from './errors.js';
import {
  decodeHeader,
  decodeMembers,
  IPSET_COMMAND,
  listBody,
  MAX_TIMEOUT,
  memberBody,
  type SetHeader,
  type SetMember,
} from './ipset-codec.js';
import { NetlinkSocket } from './socket.js';

const ENOENT = 2;
const EINVAL = 22;
const ERROR = { protocol: 4097, prefix: 4104, timeout: 4107, full: 4352 } as const;

const MEANING: Readonly<Record<number, ErrorDetail>> = {
  [ENOENT]: { reason: 'no such set', remedy: 'The reconciler makes it; add again after it has applied.' },
  [ERROR.protocol]: {
    reason: 'the kernel does not understand the message',
    remedy: 'ipset protocol 7 is needed (Linux >= 4.20).',
  },
  [ERROR.prefix]: {
    reason: 'the prefix does not fit the set',
    remedy: 'hash:ip takes single addresses, no set takes /0.',
  },
  [ERROR.timeout]: { reason: 'the set was made without time-outs', remedy: 'Make it with "timeout 0".' },
  [ERROR.full]: { reason: 'the set is full', remedy: 'Make it with a greater maxelem.' },
};

function explained(error: unknown): unknown {
  const detail = error instanceof NetlinkError ? MEANING[error.errno] : undefined;
  return error instanceof NetlinkError && detail !== undefined
    ? new NetlinkError(error.operation, error.errno, detail)
    : error;
}

/** The sets of one network namespace. */
export class KernelSets implements SetWriter, Disposable {
  readonly #requests: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#requests = new NetlinkSocket({ protocol: 'netfilter', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'netfilter', ...options });
  }

  /**
   * Adds ADDRESS or ADDRESS/PREFIX, or gives a member that exists the new time-out. Seconds, rounded up, at most
   * 2,147,483; 0: for good, in sets with and without time-outs. Rejects with NetlinkError: ENOENT unknown set, "full",
   * wrong family; with RangeError for a bad time-out.
   */
  async add(set: string, address: string, timeoutSeconds: number): Promise<void> {
    if (!(timeoutSeconds >= 0))
      throw new RangeError(`add ${address} to set ${set}: bad time-out ${timeoutSeconds}`);
    const timeout = Math.min(Math.ceil(timeoutSeconds), MAX_TIMEOUT);
    try {
      this.#change('add', set, address, timeout);
    } catch (error) {
      const permanent = timeout === 0 && error instanceof NetlinkError && error.errno === ERROR.timeout;
      if (!permanent) throw error;
      this.#change('add', set, address, undefined);
    }
  }

  /** Removes a member; one that is not there is no error. Rejects with NetlinkError. */
  async remove(set: string, address: string): Promise<void> {
    this.#change('remove', set, address, undefined);
  }

  /** The headers of all sets. */
  async headers(): Promise<readonly SetHeader[]> {
    return this.#dump('list sets', undefined, (body) => {
      const header = decodeHeader(body);
      return header.ok ? [header.value] : [];
    });
  }

  /** The members of one set; undefined when there is no such set. */
  async members(set: string): Promise<readonly SetMember[] | undefined> {
    try {
      return await this.#dump(`list set ${set}`, set, decodeMembers);
    } catch (error) {
      if (isRefusal(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  close(): void {
    this.#requests.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }

  #change(verb: 'add' | 'remove', set: string, address: string, timeout: number | undefined): void {
    const operation = verb === 'add' ? `add ${address} to set ${set}` : `remove ${address} from set ${set}`;
    const body = memberBody(set, address, timeout);
    if (body === undefined) throw new NetlinkError(operation, EINVAL, { reason: 'not an address' });
    try {
      this.#requests.request(operation, { type: IPSET_COMMAND[verb], body });
    } catch (error) {
      throw this.#wrongFamily(error, set, address) ?? explained(error);
    }
  }

  /** The kernel calls an address of the other family a protocol error: ask which family the set has, to say it. */
  #wrongFamily(error: unknown, set: string, address: string): NetlinkError | undefined {
    if (!(error instanceof NetlinkError) || error.errno !== ERROR.protocol) return undefined;
    const [answer] = this.#requests.request(error.operation, {
      type: IPSET_COMMAND.header,
      body: listBody(set),
    });
    const header = answer === undefined ? undefined : decodeHeader(answer.body);
    const family = address.includes(':') ? 6 : 4;
    if (header?.ok !== true || header.value.family === family) return undefined;
    const reason = `the set holds IPv${header.value.family}, the address is IPv${family}`;
    return new NetlinkError(error.operation, error.errno, {
      reason,
      remedy: 'Use the set of the other family.',
    });
  }

  async #dump<T>(
    operation: string,
    set: string | undefined,
    decode: (body: Buffer) => readonly T[],
  ): Promise<T[]> {
    const out = { type: IPSET_COMMAND.list, body: listBody(set) };
    try {
      return (await this.#dumps.dump(operation, out, (message) => decode(message.body))).flat();
    } catch (error) {
      throw explained(error);
    }
  }
}
