/** Faults of the kernel's rules, of the service, of Docker and of the disk, each for some seconds. They overlap at random. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../fuzz/random.js';
import { type DockerProxy, type Fault, HEALTHY } from '../lab/docker-proxy.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import type { SmallDisk } from '../lab/small-disk.js';

const READY_MS = 90_000;
/** Shorter than the time for which held packets wait, and longer than a heartbeat. */
const FROZEN_MS = 1_500;
/** For how long Docker or the disk has its fault. */
const FAULT_MS = 4_000;
/** The jump is in FORWARD while nothing leads to DOCKER-USER. */
const FILTER = [/^-A (DOCKER-USER|FORWARD) .*-j DB-FORWARD$/m, /^-A DB-FORWARD /m];
const BRIDGE_TABLE = 'nft delete table bridge drawbridge';
/** What another process deletes, the command that shows its repair, and all that this then prints. */
const FLUSHES: readonly (readonly [what: string, look: string, shows: readonly RegExp[]])[] = [
  ['iptables -w -F DOCKER-USER', 'iptables -w -S', FILTER],
  ['ip6tables -w -F DOCKER-USER', 'ip6tables -w -S', FILTER],
  ['iptables -w -F', 'iptables -w -S', FILTER],
  ['ip6tables -w -F', 'ip6tables -w -S', FILTER],
  ['iptables -w -t security -F', 'iptables -w -t security -S FORWARD', [/-A FORWARD/]],
  ['ip6tables -w -t security -F', 'ip6tables -w -t security -S FORWARD', [/-A FORWARD/]],
  ['iptables -w -t nat -F DB-PREROUTING', 'iptables -w -t nat -S DB-PREROUTING', [/-A DB-PREROUTING/]],
  [BRIDGE_TABLE, 'nft list tables bridge', [/drawbridge/]],
  ['nft delete table inet drawbridge_backstop', 'nft list tables inet', [/drawbridge_backstop/]],
  ['nft delete table inet drawbridge_host', 'nft list tables inet', [/drawbridge_host/]],
];
const MOODS: readonly (readonly [what: string, fault: Fault])[] = [
  ['answers are 2 s late', { answers: 2_000, events: 'pass' }],
  ['events are 1 s late', { answers: 'pass', events: 1_000 }],
  ['no answer', { answers: 'hang', events: 'pass' }],
  ['connections are refused', { answers: 'refuse', events: 'pass' }],
];

export interface Place {
  readonly lab: Lab;
  readonly drawbridge: Drawbridge;
  /** Between Docker and the service. */
  readonly docker: DockerProxy;
  /** Holds the state of the service. */
  readonly disk: SmallDisk;
}
interface Networks {
  /** Resolves when the rules know the bridge of every network that there is. */
  known(): Promise<void>;
}

export class Faults {
  /** What was done, and when. */
  readonly history: string[] = [];
  /** Whether the service may be killed and frozen. */
  mayKill = true;
  /**
   * The bridge table is gone, or about to be. A network that the rules do not know yet has no second layer
   * (docs/threat-model.md): none may be created until the table is repaired.
   */
  isBridgeTableGone = false;
  readonly #p: Place;
  readonly #networks: Networks;

  constructor(place: Place, networks: Networks) {
    this.#p = place;
    this.#networks = networks;
  }
  note(what: string): void {
    this.history.push(`${Date.now()} ${what}`);
  }

  /**
   * Deletes one layer, and waits until it is repaired: a process that deletes all layers at once is root, and nothing stops
   * it (docs/threat-model.md). Now and then the service is killed before it has repaired it.
   */
  async flush(random: Random): Promise<boolean> {
    const [what, look, shows] = random.pick(FLUSHES);
    this.isBridgeTableGone = what === BRIDGE_TABLE;
    if (this.isBridgeTableGone) await this.#networks.known();
    this.note(what);
    const { code } = await this.#p.lab.inHost(what.split(' '));
    if (code !== 0) {
      this.isBridgeTableGone = false;
      return false;
    }
    if (random.chance(4)) await this.kill();
    const isRepaired = async (): Promise<boolean> => {
      const { stdout } = await this.#p.lab.inHost(look.split(' '));
      return shows.every((s) => s.test(stdout));
    };
    await waitFor(`the repair of "${what}"`, isRepaired, READY_MS, 100);
    this.isBridgeTableGone = false;
    await this.#ready(`"${what}"`);
    return true;
  }
  async kill(): Promise<boolean> {
    if (!this.mayKill) return false;
    this.note('kill');
    this.#p.drawbridge.kill('SIGKILL');
    await this.#p.drawbridge.exited();
    this.#p.drawbridge.start();
    await this.#ready('kill');
    return true;
  }
  async freeze(): Promise<boolean> {
    if (!this.mayKill) return false;
    this.note('freeze');
    this.#p.drawbridge.kill('SIGSTOP');
    await sleep(FROZEN_MS);
    this.#p.drawbridge.kill('SIGCONT');
    await this.#ready('freeze');
    return true;
  }
  async docker(random: Random): Promise<boolean> {
    const [what, fault] = random.pick(MOODS);
    this.note(`docker: ${what}`);
    await this.#p.docker.set(fault);
    await sleep(FAULT_MS);
    await this.#p.docker.set(HEALTHY);
    await this.#ready(`docker: ${what}`);
    return true;
  }
  async fullDisk(): Promise<boolean> {
    this.note('disk full');
    await this.#p.disk.fill();
    await sleep(FAULT_MS);
    await this.#p.disk.empty();
    await this.#ready('disk full');
    return true;
  }

  /** Another lane may kill the service meanwhile. */
  async #ready(after: string): Promise<void> {
    let last = 'no answer';
    const isReady = async (): Promise<boolean> => {
      const answer = await this.#p.drawbridge
        .get('/readyz')
        .catch((e: Error) => ({ status: 0, body: e.message }));
      last = `${answer.status} ${answer.body}`;
      return answer.status === 200;
    };
    await waitFor(`the service to be ready after ${after}`, isReady, READY_MS, 100).catch((e: Error) => {
      throw new Error(`${e.message}; /readyz: ${last}; log:\n${this.#p.drawbridge.logs().slice(-4000)}`);
    });
    this.note(`ready after ${after}`);
  }
}
