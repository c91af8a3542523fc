/** What a busy host and a clumsy admin do, in lanes that a seed fixes: Docker's things, the kernel's, the service's own. */
import type { Random } from '../fuzz/random.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const MOST_CONTAINERS = 6;
const MOST_NETWORKS = 3;
const READY_MS = 90_000;
/** First instructions: forbidden addresses that the attack sends to as well. */
const FIRST = `wget -q -T 1 -O /dev/null http://93.184.200.7/ & ping -c 1 -W 1 93.184.200.8 >/dev/null 2>&1 &
  wget -q -T 1 -O /dev/null 'http://[2600:9000:bad::9]/' & wait; sleep 600`;
/** Our jump stands in FORWARD while nothing leads to DOCKER-USER. */
const FILTER = [/^-A (DOCKER-USER|FORWARD) .*-j DB-FORWARD$/m, /^-A DB-FORWARD /m];
/** What somebody does, what shows that it is mended, and all that this then says. */
const FLUSHES: readonly (readonly [what: string, look: string, shows: readonly RegExp[]])[] = [
  ['iptables -w -F DOCKER-USER', 'iptables -w -S', FILTER],
  ['ip6tables -w -F DOCKER-USER', 'ip6tables -w -S', FILTER],
  ['iptables -w -F', 'iptables -w -S', FILTER],
  ['ip6tables -w -F', 'ip6tables -w -S', FILTER],
  ['iptables -w -t security -F', 'iptables -w -t security -S FORWARD', [/-A FORWARD/]],
  ['ip6tables -w -t security -F', 'ip6tables -w -t security -S FORWARD', [/-A FORWARD/]],
  ['iptables -w -t nat -F DB-PREROUTING', 'iptables -w -t nat -S DB-PREROUTING', [/-A DB-PREROUTING/]],
  ['nft delete table bridge drawbridge', 'nft list tables bridge', [/drawbridge/]],
  ['nft delete table inet drawbridge_backstop', 'nft list tables inet', [/drawbridge_backstop/]],
];
type Step = readonly [kind: string, weight: number, run: (r: Random) => Promise<boolean>];

export class Churn {
  /** Revoked addresses that were reached all the same. */
  readonly leaks: string[] = [];
  /** What was done to the kernel and to the service, and when. */
  readonly history: string[] = [];
  readonly #lab: Lab;
  readonly #drawbridge: Drawbridge;
  readonly #random: (lane: number) => Random;
  readonly #containers: string[] = [];
  readonly #networks: string[] = ['bridge', 'arena'];
  readonly #done = new Map<string, number>();
  #made = 0;
  #until = 0;

  constructor(lab: Lab, drawbridge: Drawbridge, random: (lane: number) => Random) {
    this.#lab = lab;
    this.#drawbridge = drawbridge;
    this.#random = random;
  }
  static kinds(): string[] {
    const all = ['connect', 'disconnect', 'flush', 'kill', 'network', 'network rm', 'restart', 'revoke'];
    return [...all, 'start', 'stop'].sort();
  }

  /** How often each kind was done. */
  async run(ms: number): Promise<ReadonlyMap<string, number>> {
    this.#until = Date.now() + ms;
    await Promise.all([
      this.#lane(1, [
        ['start', 4, (r) => this.#start(r)],
        ['stop', 2, (r) => this.#stop(r)],
        ['restart', 1, (r) => this.#restart(r)],
        ['connect', 2, (r) => this.#connect(r)],
        ['disconnect', 2, (r) => this.#disconnect(r)],
        ['network', 1, () => this.#network()],
        ['network rm', 1, () => this.#removeNetwork()],
      ]),
      this.#lane(2, [
        ['flush', 3, (r) => this.#flush(r)],
        ['kill', 1, () => this.#kill()],
      ]),
      this.#lane(3, [['revoke', 1, (r) => this.#revoke(r)]]),
    ]);
    return this.#done;
  }

  /** Every step of the bag once, in any order, then again. One that cannot be done now (nothing to stop) is passed over. */
  async #lane(n: number, steps: readonly Step[]): Promise<void> {
    const random = this.#random(n);
    const bag = steps.flatMap((s) => Array.from({ length: s[1] }, () => s));
    for (let left: Step[] = []; Date.now() < this.#until; ) {
      if (left.length === 0) left = [...bag];
      const [step] = left.splice(random.below(left.length), 1);
      const [kind, , run] = step as Step;
      if (await run(random)) this.#done.set(kind, (this.#done.get(kind) ?? 0) + 1);
    }
  }

  async #start(random: Random): Promise<boolean> {
    if (this.#containers.length >= MOST_CONTAINERS) return false;
    const name = `churn-${++this.#made}`;
    await this.#lab.start({
      name,
      network: random.pick(this.#networks),
      node: false,
      labels: { 'drawbridge.allow': `93.184.70.${1 + random.below(200)}:80` },
      cmd: ['sh', '-c', FIRST],
    });
    this.#containers.push(name);
    return true;
  }
  async #stop(random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    const [name = ''] = this.#containers.splice(random.below(this.#containers.length), 1);
    await this.#lab.docker('rm', '-f', name);
    return true;
  }
  async #restart(random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    await this.#lab.docker('restart', '-t', '0', random.pick(this.#containers));
    return true;
  }
  async #connect(random: Random): Promise<boolean> {
    return this.#leg('connect', random);
  }
  async #disconnect(random: Random): Promise<boolean> {
    return this.#leg('disconnect', random);
  }
  /** The first network, from any on, that Docker does not refuse because it is so already. */
  async #leg(verb: 'connect' | 'disconnect', random: Random): Promise<boolean> {
    if (this.#containers.length === 0) return false;
    const container = random.pick(this.#containers);
    const from = random.below(this.#networks.length);
    for (const network of [...this.#networks.slice(from), ...this.#networks.slice(0, from)]) {
      const args = ['network', verb, network, container];
      if ((await this.#lab.dockerResult(args, { check: false })).code === 0) return true;
    }
    return false;
  }
  async #network(): Promise<boolean> {
    if (this.#networks.length >= 2 + MOST_NETWORKS) return false;
    const name = `net-${++this.#made}`;
    await this.#lab.docker('network', 'create', '--ipv6', name);
    this.#networks.push(name);
    return true;
  }
  /** Not while somebody is on it. */
  async #removeNetwork(): Promise<boolean> {
    const name = this.#networks[2];
    if (name === undefined) return false;
    const removed = (await this.#lab.dockerResult(['network', 'rm', name], { check: false })).code === 0;
    if (removed) this.#networks.splice(2, 1);
    return removed;
  }

  /**
   * One layer at a time, and the next when it stands again: who takes all of them at once is root, whom nothing stops
   * (docs/threat-model.md). Now and then the service is killed before it has mended it.
   */
  async #flush(random: Random): Promise<boolean> {
    const [what, look, shows] = random.pick(FLUSHES);
    this.history.push(`${Date.now()} ${what}`);
    const { code } = await this.#lab.inHost(what.split(' '));
    if (code !== 0) return false;
    if (random.chance(4)) await this.#kill();
    const isMended = async (): Promise<boolean> => {
      const { stdout } = await this.#lab.inHost(look.split(' '));
      return shows.every((s) => s.test(stdout));
    };
    await waitFor(`what "${what}" took to stand again`, isMended, READY_MS, 100);
    await this.#drawbridge.ready(READY_MS);
    this.history.push(`${Date.now()} mended`);
    return true;
  }
  async #kill(): Promise<boolean> {
    this.history.push(`${Date.now()} kill`);
    this.#drawbridge.kill('SIGKILL');
    await this.#drawbridge.exited();
    this.#drawbridge.start();
    await this.#drawbridge.ready(READY_MS);
    this.history.push(`${Date.now()} ready again`);
    return true;
  }
  /** Granted until it opens; revoked until that is acknowledged: from then on nothing reaches it. */
  async #revoke(random: Random): Promise<boolean> {
    const address = `93.184.61.${1 + random.below(250)}`;
    const path = '/v1/containers/client/grants';
    const given = await this.#acknowledged('POST', path, { entry: `${address}:443` });
    await waitFor(`${address} to open`, () => this.#opens(address), READY_MS);
    await this.#acknowledged('DELETE', `${path}/${(JSON.parse(given) as { id: string }).id}`);
    const after = await this.#lab.sniffer.settle();
    const opened = await this.#opens(address);
    const out = await this.#lab.sniffer.count({ direction: 'out', dst: address, onlyFlags: 'S', after });
    if (opened || out > 0)
      this.leaks.push(`${address}: ${opened ? 'opened' : `${out} packets`} after its end`);
    return true;
  }
  async #opens(address: string): Promise<boolean> {
    const probe = ['node', '/probe.mjs', 'tcp', address, '443', '--timeout', '1500'];
    const { stdout } = await this.#lab.exec('client', probe);
    return (JSON.parse(stdout) as { ok: boolean }).ok;
  }
  /** The service is away now and then: asked again until it has answered. */
  async #acknowledged(method: string, path: string, body?: unknown): Promise<string> {
    let answer = '';
    const ask = async (): Promise<boolean> => {
      const r = await this.#drawbridge.request(method, path, body).catch(() => undefined); // away, or killed meanwhile
      if (r === undefined || r.status >= 500) return false;
      if (r.status >= 400 && r.status !== 404 && r.status !== 409)
        throw new Error(`${method} ${path}: ${r.status} ${r.body}`);
      answer = r.body;
      return method === 'DELETE' || r.status < 300;
    };
    await waitFor(`${method} ${path}`, ask, READY_MS, 100);
    return answer;
  }
}
