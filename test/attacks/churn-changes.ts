/** Changes through the API while the service has faults. An acknowledged change must be in force, and must still be there later. */
import type { Random } from '../fuzz/random.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const ANSWER_MS = 90_000;
export const LIST = 'soak';
/** Addresses that the list contains, or does not, from one change to the next. */
const LISTED = ['93.184.62.1', '93.184.62.2', '93.184.62.3', '93.184.62.4', '93.184.62.5'];
/** A refusal that leaves open what is stored. */
const UNSURE = /did not take it back|it is unknown whether/;
/** A new permitted connection may repeat its SYN while another process has deleted the rules; a forbidden one is refused at once. */
const OPEN_MS = 10_000;
const CLOSED_MS = 1_500;

const words = (addresses: Iterable<string>): string => [...addresses].sort().join(' ') || 'nothing';

export class Changes {
  /** Revoked grants that were reached all the same. */
  readonly leaks: string[] = [];
  /** Acknowledged changes that were not in force, or not stored, and refused ones that were. */
  readonly wrong: string[] = [];
  readonly counts = { acknowledged: 0, refused: 0, unanswered: 0 };
  /** Why changes were refused, and when. */
  readonly refusals: string[] = [];
  readonly #lab: Lab;
  readonly #drawbridge: Drawbridge;
  /** What the list contained when its last change was acknowledged. */
  #promised: ReadonlySet<string> = new Set();

  constructor(lab: Lab, drawbridge: Drawbridge) {
    this.#lab = lab;
    this.#drawbridge = drawbridge;
  }

  /** Adds an address to the list or removes it, once. False: it was not acknowledged. */
  async list(random: Random): Promise<boolean> {
    await this.compare();
    const address = random.pick(LISTED);
    const wanted = new Set(this.#promised);
    if (!wanted.delete(address)) wanted.add(address);
    const body = { allow: [...wanted].map((a) => `${a}:443`) };
    const answer = await this.#drawbridge.request('PUT', `/v1/lists/${LIST}`, body).catch(() => undefined);
    if (answer !== undefined && answer.status >= 300 && answer.status < 500)
      throw new Error(`PUT /v1/lists/${LIST}: ${answer.status} ${answer.body}`);
    if (answer === undefined || UNSURE.test(answer.body)) {
      this.counts.unanswered += 1;
      if (words(await this.#stored()) === words(wanted)) this.#promised = wanted;
      return false;
    }
    if (answer.status >= 500) {
      this.counts.refused += 1;
      this.refusals.push(`${Date.now()} ${answer.body}`);
      return false;
    }
    this.counts.acknowledged += 1;
    this.#promised = wanted;
    const isListed = wanted.has(address);
    if ((await this.#opens('listed', address, isListed ? OPEN_MS : CLOSED_MS)) !== isListed)
      this.wrong.push(`${Date.now()} ${address} was ${isListed ? 'permitted' : 'removed'} and is not`);
    return true;
  }

  /** What is stored is what was acknowledged. */
  async compare(): Promise<void> {
    const stored = await this.#stored();
    if (words(stored) === words(this.#promised)) return;
    this.wrong.push(`${Date.now()} stored: ${words(stored)}; acknowledged last: ${words(this.#promised)}`);
    this.#promised = stored;
  }
  /** What a container that has the list reaches is what was acknowledged. */
  async compareReached(): Promise<void> {
    const opened: string[] = [];
    for (const address of LISTED)
      if (await this.#opens('listed', address, this.#promised.has(address) ? OPEN_MS : CLOSED_MS))
        opened.push(address);
    if (words(opened) === words(this.#promised)) return;
    this.wrong.push(`${Date.now()} reached: ${words(opened)}; acknowledged last: ${words(this.#promised)}`);
  }

  async #stored(): Promise<ReadonlySet<string>> {
    const read = async (): Promise<string | undefined> => {
      const answer = await this.#drawbridge.get(`/v1/lists/${LIST}`).catch(() => undefined);
      return answer?.status === 200 ? answer.body : undefined;
    };
    const { allow } = JSON.parse(await waitFor('the list', read, ANSWER_MS, 100)) as {
      readonly allow: readonly (string | { readonly to: string })[];
    };
    return new Set(allow.map((e) => (typeof e === 'string' ? e : e.to).replace(/:443$/, '')));
  }

  /** Grants an address until it opens; revokes it until that is acknowledged: from then on nothing reaches it. */
  async revoke(random: Random): Promise<boolean> {
    const address = `93.184.61.${1 + random.below(250)}`;
    const path = '/v1/containers/client/grants';
    const given = await this.#acknowledged('POST', path, { entry: `${address}:443` });
    await waitFor(`${address} to open`, () => this.#opens('client', address, CLOSED_MS), ANSWER_MS);
    await this.#acknowledged('DELETE', `${path}/${(JSON.parse(given) as { id: string }).id}`);
    const after = await this.#lab.sniffer.settle();
    const opened = await this.#opens('client', address, CLOSED_MS);
    const out = await this.#lab.sniffer.count({ direction: 'out', dst: address, onlyFlags: 'S', after });
    if (opened || out > 0)
      this.leaks.push(`${Date.now()} ${address}: ${opened ? 'opened' : `${out} packets`} after its end`);
    return true;
  }
  /** The service is absent now and then: the change is repeated until it is acknowledged. */
  async #acknowledged(method: string, path: string, body?: unknown): Promise<string> {
    let last = 'no answer';
    const change = async (): Promise<string | undefined> => {
      const r = await this.#drawbridge.request(method, path, body).catch(() => undefined);
      if (r === undefined) return undefined;
      last = `${r.status} ${r.body}`;
      if (r.status >= 500) this.refusals.push(`${Date.now()} ${r.body}`);
      if (r.status >= 500 || r.status === 409) return undefined;
      if (r.status >= 300 && r.status !== 404) throw new Error(`${method} ${path}: ${last}`);
      return method === 'DELETE' || r.status < 300 ? r.body : undefined;
    };
    const answer = await waitFor(`${method} ${path}`, change, ANSWER_MS, 100).catch((e: Error) => {
      throw new Error(`${e.message}; the last answer: ${last}`);
    });
    return answer;
  }
  async #opens(container: string, address: string, timeoutMs: number): Promise<boolean> {
    const probe = ['node', '/probe.cjs', 'tcp', address, '443', '--timeout', String(timeoutMs)];
    const { stdout } = await this.#lab.exec(container, probe);
    return (JSON.parse(stdout) as { ok: boolean }).ok;
  }
}
