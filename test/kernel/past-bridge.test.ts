/** Packets that a program of BPF hands past the bridge: which, with what mark, and when none. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { runProgram } from '../../src/kernel/bpf.js';
import { BridgeProgram } from '../../src/kernel/bridge-program.js';
import { Kernel } from '../../src/kernel/kernel.js';
import { withNamespace } from '../../src/kernel/netlink/namespace.js';
import { releaseIngress } from '../../src/kernel/past-bridge.js';
import { compile } from '../../src/ruleset/compile.js';
import type { DesiredState, Veth } from '../../src/ruleset/desired-state.js';
import { markOf } from '../../src/ruleset/marks.js';
import { type Bytes, bytes, ether, ip, tcp, u8, u16, udp } from '../attacks/wire.js';
import { waitFor } from '../lab/process.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { type Host, makeHost } from './frames.js';

const BRIDGE = '02:42:00:00:00:01';
const OTHER = '02:42:00:00:00:02';
const own = { bridge: 'br0', mac: '02:42:ac:12:00:02', ip4: '172.18.0.2' } as const;
const free = { bridge: 'br0', mac: '02:42:ac:12:00:05', ip4: '172.18.0.5' } as const;
const AWAY = '198.51.100.9';
const e = { src: own.ip4, dst: AWAY } as const;
const IPV4 = 0x0800;
const datagram = (port = 4601, header = {}): Bytes => ip(e, 17, udp(e, 4600, port, 'data'), header);
const frame = (packet: Bytes, to: string = BRIDGE, from: string = own.mac): Bytes =>
  ether(to, from, IPV4, packet);

describe('the program', () => {
  const LOOPBACK = 1;
  const [HANDED, GOES_ON] = [7, -1]; // TC_ACT_REDIRECT, TC_ACT_UNSPEC
  const MARK = 0x2800_0002;
  const head = (bridge: string, mac: string): string => `0x${`${bridge}${mac}`.replaceAll(':', '')}080045`;
  const element = `${LOOPBACK} . ${head(BRIDGE, own.mac)} . ${own.ip4}`;
  let program: BridgeProgram;
  beforeEach(() => {
    program = new BridgeProgram();
    program.put(element, MARK, LOOPBACK);
    program.hold(60_000);
  });
  afterEach(() => program[Symbol.dispose]());
  const resultOf = (sent: Bytes): number => runProgram(program.fd, sent, LOOPBACK).result;

  it('hands over what the rule for the most frequent packet accepts, with its mark', () => {
    const segment = ip(e, 6, tcp(e, 4600, 443, { flags: 'S' }));
    const ping = ip(e, 1, u8(8, 0, 1, 2, 0, 1, 0, 1));
    for (const sent of [datagram(), segment, ping, datagram(4601, { fragment: 0x4000 })])
      expect(runProgram(program.fd, frame(sent), LOOPBACK)).toEqual({ result: HANDED, mark: MARK });
  });

  it('leaves everything else to the rules, and its mark as it is', () => {
    const cut = frame(datagram()).subarray(0, 37);
    const others: readonly (readonly [string, Bytes])[] = [
      ['to another MAC', frame(datagram(), OTHER)],
      ['from another MAC', frame(datagram(), BRIDGE, free.mac)],
      ['from another address', frame(ip({ ...e, src: free.ip4 }, 17, udp(e, 4600, 4601, 'data')))],
      ['to port 53', frame(datagram(53))],
      ['the first fragment', frame(datagram(4601, { fragment: 0x2000 }))],
      ['a later fragment', frame(datagram(4601, { fragment: 0x0001 }))],
      ['with the reserved bit and an offset', frame(datagram(4601, { fragment: 0x8fff }))],
      ['with IP options', frame(datagram(4601, { options: u8(1, 1, 1, 0) }))],
      ['a header of another version', Buffer.from(frame(datagram())).fill(0x65, 14, 15)],
      ['a VLAN tag in the frame', ether(BRIDGE, own.mac, 0x8100, bytes(u16(0, IPV4), datagram()))],
      ['ARP', ether(BRIDGE, own.mac, 0x0806, datagram())],
      ['IPv6', ether(BRIDGE, own.mac, 0x86dd, ip({ src: 'fd00::2', dst: 'fd00::9' }, 17, datagram()))],
      ['shorter than its ports', cut],
    ];
    for (const [what, sent] of others)
      expect([what, runProgram(program.fd, sent, LOOPBACK)]).toEqual([what, { result: GOES_ON, mark: 0 }]);
  });

  it('is for the interface of the element only', () => {
    program.delete(element);
    expect(resultOf(frame(datagram()))).toBe(GOES_ON);
    program.put(element.replace(/^1/, '2'), MARK, LOOPBACK);
    expect(resultOf(frame(datagram()))).toBe(GOES_ON);
  });

  it('hands nothing over before it is told for how long, and after that', async () => {
    using fresh = new BridgeProgram();
    fresh.put(element, MARK, LOOPBACK);
    const result = (): number => runProgram(fresh.fd, frame(datagram()), LOOPBACK).result;
    expect(result()).toBe(GOES_ON);
    fresh.hold(300);
    expect(result()).toBe(HANDED);
    await waitFor('the end', () => result() === GOES_ON, 5_000, 20);
    fresh.hold(60_000);
    expect(result()).toBe(HANDED);
    fresh.hold(0);
    expect(result()).toBe(GOES_ON);
  });
});

describe('on a host', () => {
  let host: Host;
  let kernel: Kernel;
  let desired: DesiredState;
  /** What the service says about it. */
  const said: string[] = [];
  const log = {
    debug: () => undefined,
    info: (fields: object) => void said.push(JSON.stringify(fields)),
    warn: (fields: object) => void said.push(JSON.stringify(fields)),
  };
  const nft = (...line: readonly string[]): string => host.ns.run('nft', ...line);
  const linkSet = (...line: readonly string[]): string => host.ns.run('ip', 'link', 'set', ...line);

  const wanted = (limited = false): DesiredState => {
    const veth: Veth = { ...own, ip6: 'fd00:18::2', ifindex: host.indexOf('own') };
    const subject = member(2, `${AWAY}:4601/udp`, 'enforce', [veth]);
    const other = member(5, '', 'off', [{ ...free, ip6: 'fd00:18::5', ifindex: host.indexOf('free') }]);
    return compile({
      ...input(limited ? { ...subject, limits: { bytesPerSecond: 1_000_000 } } : subject, other),
      bridges: [
        {
          name: 'br0',
          mac: BRIDGE,
          veths: [host.indexOf('own'), host.indexOf('free')],
          subnets: ['172.18.0.0/16'],
        },
      ],
    });
  };
  const begun = async (): Promise<Kernel> => {
    let prepared: Promise<void> | undefined;
    const made = withNamespace(host.ns.path, () => {
      const k = new Kernel({ ...shape, pastBridge: true }, host.ns.exec, log);
      prepared = k.prepare(() => undefined);
      return k;
    });
    await prepared;
    return made;
  };
  const check = (): Promise<void> => kernel.pastBridge.check(kernel.generation());
  /** What the bridge received from its ports: it does not count what is handed to it. */
  const received = (): number => {
    const [link] = JSON.parse(host.ns.run('ip', '-s', '-j', 'link', 'show', 'br0')) as {
      readonly stats64: { readonly rx: { readonly packets: number } };
    }[];
    return link?.stats64.rx.packets ?? 0;
  };
  /** Whether a datagram of the container is handed past the bridge; it arrives at the host with its mark in any case. */
  async function isHanded(sent: Bytes = frame(datagram())): Promise<boolean> {
    nft('reset', 'counters');
    const before = received();
    const [seen = []] = await host.send([{ from: 'own', frames: [sent] }]);
    expect(seen.filter((s) => s.at === 'br0' && s.frame.equals(sent))).toHaveLength(1);
    expect(nft('list', 'counter', 'inet', 'seen', 'marked')).toContain('packets 1 ');
    const marker = 1;
    return received() - before - marker === 0;
  }
  /** Some beats at which nothing is sent to a veth: it gets the program. */
  async function rest(): Promise<void> {
    for (let n = 0; n < 4; n++) {
      await check();
      await kernel.pastBridge.settled();
    }
  }
  const shares = (dev: string): boolean =>
    host.ns.run('tc', 'qdisc', 'show', 'dev', dev).includes('ingress_block');
  const release = async (): Promise<string[]> => {
    let released: Promise<string[]> | undefined;
    withNamespace(host.ns.path, () => {
      released = releaseIngress();
    });
    return (await released) ?? [];
  };
  const isOn = async (): Promise<void> =>
    void (await waitFor(
      'packets to be handed over',
      async () => {
        await rest();
        return isHanded();
      },
      5_000,
      50,
    ));

  beforeAll(async () => {
    host = makeHost({
      bridges: { br0: { mac: BRIDGE, addresses: ['172.18.0.1/16'] }, br1: { mac: OTHER, addresses: [] } },
      veths: { own, free, uplink: { mac: '02:42:00:00:33:01' } },
      marker: { by: 'free', at: ['br0'] },
    });
    const mark = markOf(shape.marks, 2, 'enforce');
    const rules = `table inet seen { counter marked { }
      chain pre { type filter hook prerouting priority -400; iifname "br0" udp dport 4601 meta mark ${mark} counter name marked
      }
    }`;
    host.ns.run('sh', '-c', `nft '${rules}'`);
    desired = wanted();
    await start();
  });
  async function start(): Promise<void> {
    kernel = await begun();
    await kernel.links();
    await kernel.readSnapshot();
    await kernel.apply(desired, async () => undefined);
    await check();
  }
  afterAll(async () => {
    await kernel?.[Symbol.asyncDispose]();
    host?.[Symbol.dispose]();
  });

  it('control: without it, packets reach the host by the bridge, with the same mark', async () => {
    await isOn();
    await kernel.pastBridge.check(undefined);
    expect(kernel.pastBridge.state).toEqual({ handed: 2, others: 0 });
    kernel.pastBridge.before(new Map());
    expect(await isHanded()).toBe(false);
    kernel.pastBridge.after(desired.bridge.routed4);
    await isOn();
  });

  it('a frame with a VLAN tag, which the kernel takes out of the frame, is dropped by the rules', async () => {
    await isOn();
    const tagged = ether(BRIDGE, own.mac, 0x8100, bytes(u16(5, IPV4), datagram()));
    const [seen = [], plain = []] = await host.send([
      { from: 'own', frames: [tagged] },
      { from: 'own', frames: [frame(datagram())] },
    ]);
    const carried = (of: typeof seen): number =>
      of.filter((s) => s.at === 'br0' && s.frame.includes(datagram())).length;
    expect([carried(seen), carried(plain)]).toEqual([0, 1]);
  });

  it('a rule of another program for frames ends it; one without effect, or elsewhere, does not', async () => {
    const tables: readonly (readonly [string, string, boolean])[] = [
      ['bridge', 'chain c { type filter hook prerouting priority 0; counter; }', false],
      ['bridge', 'chain c { type filter hook input priority 0; counter; }', false],
      ['bridge', 'chain c { type filter hook prerouting priority 0; }', true],
      ['bridge', 'chain c { type filter hook forward priority 0; counter; }', true],
      ['netdev', 'chain c { type filter hook ingress device "own" priority 0; counter; }', false],
      [
        'netdev',
        'chain c { type filter hook ingress devices = { uplink, own } priority 0; counter; }',
        false,
      ],
      ['netdev', 'chain c { type filter hook ingress device "uplink" priority 0; counter; }', true],
      ['inet', 'chain c { type filter hook ingress device "own" priority 0; counter; }', false],
      ['inet', 'chain c { type filter hook prerouting priority 0; counter; }', true],
    ];
    for (const [family, chain, stays] of tables) {
      nft(`table ${family} other { ${chain}; }`);
      await check();
      expect([family, chain, await isHanded()]).toEqual([family, chain, stays]);
      expect(kernel.pastBridge.state.why === undefined).toBe(stays);
      nft('delete', 'table', family, 'other');
      await check();
    }
    await isOn();
    expect(said.join('\n')).toContain('the table netdev other has rules for frames');
  });

  it('rules that need br_netfilter end it while that shows packets to iptables', async () => {
    const isShown = readFileSync('/proc/sys/net/bridge/bridge-nf-call-iptables', 'utf8').trim() === '1';
    const rules: readonly (readonly [string, boolean])[] = [
      ['-m physdev --physdev-in veth1 -j DROP', !isShown],
      ['-d 10.9.9.9/32 -p tcp -j DNAT --to-destination 172.18.0.5', !isShown],
      ['-d 192.0.2.1/32 ! -i br0 -p tcp -j DNAT --to-destination 172.18.0.5', true],
    ];
    for (const [text, stays] of rules) {
      const chain = new Map([['C', [{ text, hash: undefined }]]]);
      kernel.pastBridge.note(new Map([[4, new Map([['nat', chain]])]]));
      await check();
      expect([text, await isHanded()]).toEqual([text, stays]);
    }
    kernel.pastBridge.note(new Map());
    nft('table ip other { chain c { type nat hook prerouting priority 0; }; }');
    await check();
    expect(await isHanded()).toBe(!isShown);
    nft('delete', 'table', 'ip', 'other');
    await check();
    await isOn();
  });

  const bridge = (...settings: readonly string[]): string => linkSet('br0', 'type', 'bridge', ...settings);
  const port = (state: string): string => host.ns.run('bridge', 'link', 'set', 'dev', 'own', 'state', state);
  it.each<readonly [what: string, off: () => void, on: () => void]>([
    ['the spanning tree', () => bridge('stp_state', '1'), () => bridge('stp_state', '0')],
    [
      'an MTU that is smaller than that of the port',
      () => linkSet('br0', 'mtu', '1400'),
      () => linkSet('br0', 'mtu', '1500'),
    ],
  ])('%s of a bridge ends it, as soon as the kernel reports it', async (_what, off, on) => {
    await isOn();
    off();
    await waitFor('the setting to be seen', () => kernel.pastBridge.state.handed === 0, 5_000, 10);
    on();
    await isOn();
  });

  it('a port that its bridge blocks, and one that has left it, hand nothing over', async () => {
    await isOn();
    for (const [off, on] of [
      [() => port('disabled'), () => port('forwarding')],
      [() => linkSet('own', 'nomaster'), () => linkSet('own', 'master', 'br0')],
    ] as const) {
      off();
      await waitFor('the change to be seen', () => kernel.pastBridge.state.handed === 1, 5_000, 10);
      const [seen = []] = await host.send([{ from: 'own', frames: [frame(datagram())] }]);
      expect(seen.filter((s) => s.at === 'br0' && s.frame.equals(frame(datagram())))).toEqual([]);
      on();
      await isOn();
    }
    await kernel[Symbol.asyncDispose]();
    port('disabled');
    await start();
    await waitFor('the others', () => kernel.pastBridge.state.handed === 1, 5_000, 10);
    expect(kernel.pastBridge.state).toEqual({ handed: 1, others: 1 });
    port('forwarding');
    await isOn();
  });

  it('a veth with a limit is not handed past the rules that limit it', async () => {
    await isOn();
    desired = wanted(true);
    await kernel.apply(desired, async () => undefined);
    expect(kernel.pastBridge.state).toEqual({ handed: 1, others: 0 });
    expect(await isHanded()).toBe(false);
    desired = wanted();
    await kernel.apply(desired, async () => undefined);
    await isOn();
  });

  it('a service that hangs hands nothing over after some seconds', async () => {
    await isOn();
    await waitFor('the end', async () => !(await isHanded()), 6_000, 200);
    await isOn();
  });

  it('a new start ends the program of the one before, and takes over where it was', async () => {
    await isOn();
    const former = kernel;
    const second = await begun();
    await former.pastBridge.check(former.generation());
    expect(await isHanded()).toBe(false);
    kernel = second;
    await kernel.links();
    await kernel.readSnapshot();
    await kernel.apply(desired, async () => undefined);
    await check();
    await isOn();
    // as after a crash: the former is closed only now, which must not end the new one
    former.pastBridge.before(new Map());
    expect(await isHanded()).toBe(true);
    kernel = former;
    await kernel[Symbol.asyncDispose]();
    kernel = second;
    await kernel[Symbol.asyncDispose]();
    expect(await isHanded()).toBe(false);
    await start();
    await isOn();
  });

  it('a start takes the rules for installed while the backstop is, which comes last', async () => {
    const isInstalled = async (): Promise<boolean> => {
      kernel.invalidate();
      return (await kernel.readSnapshot()).isInstalled;
    };
    expect(await isInstalled()).toBe(true);
    host.ns.run('nft', 'delete', 'table', 'inet', 'drawbridge_backstop');
    expect(await isInstalled()).toBe(false);
    await kernel.apply(desired, async () => undefined);
    expect(await isInstalled()).toBe(true);
    await check();
  });

  it('a veth to which packets are on their way waits for its discipline, which would lose them, however long', async () => {
    await kernel[Symbol.asyncDispose]();
    await release();
    await start();
    for (let n = 0; n < 20; n++) {
      await check();
      await kernel.pastBridge.settled();
      await host.send([{ from: 'free', frames: [] }]); // the marker is sent to all others
    }
    expect([shares('own'), shares('free')]).toEqual([false, true]);
    await isOn();
    expect(shares('own')).toBe(true);
  });

  it('a discipline that another program has taken away is found after a minute, and given again', async () => {
    await isOn();
    host.ns.run('tc', 'qdisc', 'del', 'dev', 'own', 'ingress');
    expect(await isHanded()).toBe(false);
    const later = performance.now() + 61_000;
    const clock = vi.spyOn(performance, 'now').mockReturnValue(later);
    await check();
    await kernel.pastBridge.settled();
    clock.mockRestore();
    expect(kernel.pastBridge.state).toEqual({ handed: 1, others: 1 });
    await isOn();
    expect(shares('own')).toBe(true);
  });

  it('a new veth on a bridge of containers has its discipline before it is bound', async () => {
    await isOn();
    host.ns.run('ip', 'link', 'add', 'late', 'type', 'veth', 'peer', 'name', 'late-far');
    linkSet('late', 'master', 'br1');
    linkSet('late', 'master', 'br0');
    await waitFor('the discipline', () => shares('late'), 5_000, 20);
    expect(shares('uplink')).toBe(false);
    host.ns.run('ip', 'link', 'del', 'late');
  });

  it('a veth that came while all packets took the rules may be in use since, and waits for a pause', async () => {
    await isOn();
    nft('table bridge other { chain c { type filter hook prerouting priority 0; counter; }; }');
    await check();
    host.ns.run('ip', 'link', 'add', 'late', 'type', 'veth', 'peer', 'name', 'late-far');
    linkSet('late', 'master', 'br1');
    linkSet('late', 'master', 'br0');
    const isReported = async (): Promise<boolean> =>
      (await kernel.links()).some((l) => l.name === 'late' && l.master === host.indexOf('br0'));
    await waitFor('the report of the link', isReported, 5_000, 20);
    nft('delete', 'table', 'bridge', 'other');
    await check();
    await kernel.pastBridge.settled();
    expect(shares('late')).toBe(false);
    host.ns.run('ip', 'link', 'del', 'late');
    await isOn();
  });

  it('the discipline of another program at a veth stays, and its packets take all rules', async () => {
    await kernel[Symbol.asyncDispose]();
    expect(await release()).toEqual(['the ingress disciplines of 2 veths']);
    host.ns.run('tc', 'qdisc', 'add', 'dev', 'own', 'clsact');
    await start();
    await rest();
    expect(await isHanded()).toBe(false);
    expect(kernel.pastBridge.state).toEqual({ handed: 1, others: 1 });
    expect(host.ns.run('tc', 'qdisc', 'show', 'dev', 'own')).toContain('clsact');
    expect(said.filter((text) => text.includes('EEXIST'))).toHaveLength(1);
    await rest();
    expect(said.filter((text) => text.includes('EEXIST'))).toHaveLength(1);
    await kernel[Symbol.asyncDispose]();
    host.ns.run('tc', 'qdisc', 'del', 'dev', 'own', 'clsact');
    await start();
    await isOn();
  });
});

it('nothing of it is left on this machine', () => {
  expect(execFileSync('tc', ['qdisc', 'show'], { encoding: 'utf8' })).not.toContain('ingress_block');
});
