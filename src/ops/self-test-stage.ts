/** Three network namespaces for the self-test: a host with a bridge, a container on it, and a net behind it. */

import { type Exec, must } from '../kernel/exec.js';
import type { Family } from '../lib/ip.js';

const BRIDGE = 'dbtest0';
/** Benchmarking space (RFC 2544) and a unique local prefix of our own: nothing of them leaves these namespaces. */
export const PLACES: Readonly<Record<Family, Readonly<Record<'box' | 'permitted' | 'forbidden', string>>>> = {
  4: { box: '198.18.0.2', permitted: '198.18.1.2', forbidden: '198.18.1.3' },
  6: { box: 'fd64:7262:d0c0::2', permitted: 'fd64:7262:d0c1::2', forbidden: 'fd64:7262:d0c1::3' },
};
const HOST = {
  box: ['198.18.0.1/24', 'fd64:7262:d0c0::1/64'],
  net: ['198.18.1.1/24', 'fd64:7262:d0c1::1/64'],
} as const;

/** A /proc of its own: in a container the one that is there is read-only. */
const WITH_PROC = ['--mount-proc', '--'];

/** A link as `ip -j link` shows it, as far as it is needed. */
interface IpLink {
  readonly ifindex: number;
  readonly ifname: string;
  readonly address: string;
}

export class SelfTestStage implements AsyncDisposable {
  readonly bridge = BRIDGE;
  readonly #run: Exec;
  readonly #names: Readonly<Record<'host' | 'box' | 'net', string>>;

  constructor(run: Exec) {
    this.#run = run;
    const name = (role: string): string => `drawbridge-doctor-${process.pid}-${role}`;
    this.#names = { host: name('host'), box: name('box'), net: name('net') };
  }

  /** Path of a namespace, for sockets. */
  path(role: 'host' | 'box' | 'net'): string {
    return `/run/netns/${this.#names[role]}`;
  }
  /** Runs a tool in the namespace that plays the host. */
  readonly inHost: Exec = (file, args, options) =>
    this.#run('nsenter', [`--net=${this.path('host')}`, '--', file, ...args], options);

  async build(): Promise<void> {
    const { host, box, net } = this.#names;
    for (const name of [host, box, net]) await must(this.#run, 'ip', ['netns', 'add', name]);
    const link = (...args: string[]): Promise<string> => must(this.#run, 'ip', ['-n', host, 'link', ...args]);
    await link('add', BRIDGE, 'type', 'bridge');
    await link('add', 'box0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', box);
    await link('add', 'net0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', net);
    await link('set', 'box0', 'master', BRIDGE);
    await this.#furnish('host', { lo: [], box0: [], net0: HOST.net, [BRIDGE]: HOST.box });
    await this.#furnish('box', { eth0: [`${PLACES[4].box}/24`, `${PLACES[6].box}/64`] });
    const servers = [4, 6].flatMap((f) => {
      const { permitted, forbidden } = PLACES[f as Family];
      return [permitted, forbidden].map((a) => `${a}/${f === 4 ? 24 : 64}`);
    });
    await this.#furnish('net', { eth0: servers });
    await this.#route('box', HOST.box);
    await this.#route('net', HOST.net);
    for (const name of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'])
      await must(this.inHost, 'unshare', [...WITH_PROC, 'tee', `/proc/sys/net/${name}`], { input: '1' });
  }

  /** Links of the host, by name. */
  async links(): Promise<ReadonlyMap<string, IpLink>> {
    const links = JSON.parse(await must(this.inHost, 'ip', ['-j', 'link'])) as readonly IpLink[];
    return new Map(links.map((l) => [l.ifname, l]));
  }
  /** MAC address of the container's end. */
  async boxMac(): Promise<string> {
    const shown = await must(this.#run, 'ip', ['-n', this.#names.box, '-j', 'link', 'show', 'eth0']);
    return (JSON.parse(shown) as readonly IpLink[])[0]?.address ?? '';
  }

  async #furnish(
    role: 'host' | 'box' | 'net',
    links: Readonly<Record<string, readonly string[]>>,
  ): Promise<void> {
    const name = this.#names[role];
    for (const [dev, addresses] of Object.entries(links)) {
      await must(this.#run, 'ip', ['-n', name, 'link', 'set', dev, 'up']);
      for (const a of addresses)
        await must(this.#run, 'ip', [
          '-n',
          name,
          'address',
          'add',
          a,
          'dev',
          dev,
          ...(a.includes(':') ? ['nodad'] : []),
        ]);
    }
  }

  async #route(role: 'box' | 'net', gateways: readonly string[]): Promise<void> {
    for (const g of gateways)
      await must(this.#run, 'ip', [
        '-n',
        this.#names[role],
        g.includes(':') ? '-6' : '-4',
        'route',
        'add',
        'default',
        'via',
        g.split('/')[0] ?? '',
      ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of Object.values(this.#names)) await this.#run('ip', ['netns', 'del', name]);
  }
}
