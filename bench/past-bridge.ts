/**
 * Hands packets of containers past their bridges as a running service does, while that is stopped for a measurement: its own program ends
 * some seconds after it was stopped.
 */
import { BridgeProgram, PROGRAM_NAME } from '../src/kernel/bridge-program.js';
import { SharedIngress } from '../src/kernel/netlink/traffic-control.js';
import { INGRESS_BLOCK } from '../src/kernel/past-bridge.js';
import type { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';

const ELEMENT = /"([^"]+)" \. (0x[0-9a-f]+) \. ([\d.]+) : (0x[0-9a-f]+)/g;
/** An hour: no measurement takes longer. */
const HOLD_MS = 3_600_000;

export class Handover implements Disposable {
  readonly #ingress: SharedIngress;
  readonly #program = new BridgeProgram();
  #veths: readonly number[];

  private constructor(ingress: SharedIngress, veths: readonly number[]) {
    this.#ingress = ingress;
    this.#veths = veths;
  }

  /** Waits until the service hands packets over, which still runs. */
  static async begin(lab: Lab): Promise<Handover> {
    const ingress = new SharedIngress(INGRESS_BLOCK, { namespace: lab.hostNetns });
    let veths: readonly number[] = [];
    await waitFor(
      'packets to be handed past the bridge',
      async () => {
        veths = await ingress.interfaces();
        return veths.length > 0;
      },
      30_000,
      200,
    );
    return new Handover(ingress, veths);
  }

  /** With what the rules of the stopped service say. Resolves with the number of their elements. */
  async take(lab: Lab): Promise<number> {
    this.#veths = await this.#ingress.interfaces();
    const text = async (...argv: readonly string[]): Promise<string> =>
      (await lab.inHost([...argv], { check: true })).stdout;
    const links = JSON.parse(await text('ip', '-j', 'link')) as {
      readonly ifindex: number;
      readonly ifname: string;
      readonly master?: string;
    }[];
    const byName = new Map(links.map((l) => [l.ifname, l]));
    const map = await text('nft', 'list', 'map', 'bridge', 'drawbridge', 'routed4');
    let count = 0;
    for (const [, ifname = '', head = '', ip4 = '', mark = ''] of map.matchAll(ELEMENT)) {
      const veth = byName.get(ifname);
      const bridge = byName.get(veth?.master ?? '');
      if (!veth || !bridge) continue;
      const bytes = head.slice(2).padStart(30, '0');
      this.#program.put(`${veth.ifindex} . 0x${bytes} . ${ip4}`, Number(mark), bridge.ifindex);
      count += 1;
    }
    this.#program.hold(HOLD_MS);
    return count;
  }
  async on(): Promise<void> {
    await this.#ingress.add(this.#veths);
    await this.#ingress.setProgram(this.#program.fd, PROGRAM_NAME);
  }
  async off(): Promise<void> {
    await this.#ingress.remove(this.#veths);
  }

  [Symbol.dispose](): void {
    this.#program[Symbol.dispose]();
    this.#ingress.close();
  }
}
