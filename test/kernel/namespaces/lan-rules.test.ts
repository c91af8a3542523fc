import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { exec } from '../../../src/kernel/exec.js';
import {
  applyLanProgram,
  closeLan,
  generationIn,
  lanEnds,
  lanFingerprint,
  putLanMember,
  removeLan,
  removeLanMember,
} from '../../../src/namespaces/netns-tables.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import {
  type LanInput,
  lanClosedFramesProgram,
  lanClosedProgram,
  lanFramesProgram,
  lanKey,
  lanProgram,
} from '../../../src/ruleset/netns-program.js';
import { input, member, shape } from '../../pure/ruleset/sample.js';
import { countLeaving, FROM_ANYWHERE, makeNetns, type Netns } from '../in-netns.js';

const FAR4 = '10.9.0.1';
const FAR6 = 'fd09::1';
let far: Netns;
let ns: Netns;
beforeEach(() => {
  far = makeNetns();
  ns = makeNetns();
  far.run('ip', 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'parent');
  far.run('ip', 'link', 'add', 'm0', 'link', 'parent', 'type', 'macvlan', 'mode', 'bridge');
  far.run('ip', 'link', 'set', 'm0', 'netns', ns.name);
  for (const a of [`${FAR4}/24`, '10.9.0.4/24', `${FAR6}/64`])
    far.run('ip', 'address', 'add', a, 'dev', 'wire', ...(a.includes(':') ? ['nodad'] : []));
  for (const d of ['lo', 'parent', 'wire']) far.run('ip', 'link', 'set', d, 'up');
  ns.run('ip', 'address', 'add', '10.9.0.2/24', 'dev', 'm0');
  ns.run('ip', 'address', 'add', 'fd09::2/64', 'dev', 'm0', 'nodad');
  for (const d of ['lo', 'm0']) ns.run('ip', 'link', 'set', d, 'up');
});
afterEach(() => {
  ns[Symbol.dispose]();
  far[Symbol.dispose]();
});

const onLan = (allow: string): Subject => member(1, allow, 'enforce', []);
function inputFor(m: Subject, more: Partial<LanInput> = {}): LanInput {
  const { sets } = compile(input(m));
  return { shape, member: m, sets, closed: [], resolver: 20_053, links6: ['fd09::/64'], ...more };
}
const lay = (allow: string, more: Partial<LanInput> = {}): Promise<void> =>
  applyLanProgram(exec, ns.path, lanProgram(inputFor(onLan(allow), more), new Map()));
const pings = async (address: string): Promise<boolean> => {
  const argv = ['ping', ...(address.includes(':') ? ['-6'] : []), '-c', '1', '-W', '1', address];
  return (await ns.exec('busybox', argv)).code === 0;
};

describe('rules inside a namespace on macvlan', () => {
  it('closed: nothing goes out, and what stands already stays', async () => {
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([true, true]);
    closeLan(ns.path);
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([false, false]);
    await lay(FAR4);
    closeLan(ns.path);
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([true, false]);
    expect(removeLan(ns.path)).toBe(true);
    expect(removeLan(ns.path)).toBe(false);
    expect(await pings(FAR6)).toBe(true);
  });

  /** Sends a neighbour advertisement as Docker 28 does; undefined: sent, else why not. */
  const announce = async (hops: number, more: number, to: string): Promise<string | undefined> => {
    const program = `import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
for hops in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
  s.setsockopt(socket.IPPROTO_IPV6, hops, ${hops})
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'm0')
address = socket.inet_pton(socket.AF_INET6, 'fd09::2')
s.sendto(bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + address + bytes([2, 1, 2, 0, 0, 0, 0, 1]) + bytes(${more}), ('${to}', 0))`;
    const { code, stderr } = await ns.exec('python3', ['-c', program]);
    return code === 0 ? undefined : (/\[Errno \d+\] .*/.exec(stderr)?.[0] ?? stderr);
  };
  it.each([
    ['closed over netlink', () => closeLan(ns.path)],
    ['closed by nft', () => applyLanProgram(exec, ns.path, lanClosedProgram())],
  ])('%s: an announcement of an address leaves, and nothing like it', async (_, close) => {
    await close();
    expect(await announce(255, 0, 'ff02::1')).toBeUndefined();
    const refused = expect.stringContaining('not permitted');
    expect(await announce(64, 0, 'ff02::1')).toEqual(refused);
    expect(await announce(255, 8, 'ff02::1')).toEqual(refused);
    expect(await announce(255, 0, FAR6)).toEqual(refused);
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([false, false]);
  });

  it('neighbour discovery leaves in its honest lengths alone', async () => {
    await lay(FAR4);
    const program = `import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'm0')
for kind in (133, 135, 136):
  for length in range(8, 72):
    try:
      s.sendto(bytes([kind, 0, 0, 0]) + bytes(length - 4), ('ff02::2', 0))
      print(kind, length + 40)
    except PermissionError: pass`;
    const { stdout } = await ns.exec('python3', ['-c', program]);
    const honest = ['133 48', '133 56', '135 64', '135 72', '136 64', '136 72'];
    expect(stdout.trim().split('\n')).toEqual(honest);
  });

  it('entries of every kind are words of nft, and say what they say on the host', async () => {
    await lay(
      `${FAR4}, [${FAR6}]:443, 10.8.0.0/16:22,8000-8100, 10.7.0.5-10.7.0.9:53/udp dns=direct, api.example.com, any:443, host:80, 10.1.1.1/sctp, 10.1.1.2/gre, [fd09::/64]/icmp`,
      { closed: [{ address: '10.9.0.4', port: 7070 }] },
    );
    expect([await pings(FAR4), await pings(FAR6), await pings('10.9.0.4')]).toEqual([true, true, false]);
  });

  it('learned members come, go, and get another time-out', async () => {
    const m = onLan('api.example.com/icmp');
    const set = [...compile(input(m)).sets.values()].find(
      (s) => s.timed && s.name.includes(m.id.slice(0, 12)),
    );
    const name = set?.name ?? '';
    await applyLanProgram(exec, ns.path, lanProgram(inputFor(m), new Map([[name, new Map([[FAR4, 900]])]])));
    expect(await pings(FAR4)).toBe(true);
    removeLanMember(ns.path, name, FAR4);
    removeLanMember(ns.path, name, FAR4);
    ns.run('nft', 'list', 'ruleset');
    putLanMember(ns.path, name, '10.9.0.4', 60);
    putLanMember(ns.path, name, '10.9.0.4', 5_000);
    expect(ns.run('nft', 'list', 'set', 'inet', 'drawbridge_lan', name)).toContain(
      '10.9.0.4 timeout 1h23m20s',
    );
    expect(await pings('10.9.0.4')).toBe(true);
  });

  it('from an address that is not local nothing leaves, and no refusal goes there: by either of two rules', async () => {
    for (const words of [['route'], ['-6', 'route']]) ns.run('ip', ...words, 'add', 'default', 'dev', 'm0');
    const forged = { 4: '192.0.2.77', 6: '2001:db8:53::77' } as const;
    const left = countLeaving(ns, {
      own4: 'ip saddr 10.9.0.2 udp dport 7000',
      own6: 'ip6 saddr fd09::2 udp dport 7000',
      forged4: `ip saddr ${forged[4]}`,
      forged6: `ip6 saddr ${forged[6]}`,
      refusal4: `ip daddr ${forged[4]}`,
      refusal6: `ip6 daddr ${forged[6]}`,
    });
    const send = async (port: number, from: Readonly<Record<4 | 6, string>> = forged) => {
      ns.run('python3', '-c', FROM_ANYWHERE, `${port}`, from[4], FAR4, from[6], FAR6);
      return left();
    };
    const program = lanProgram(inputFor(onLan(`${FAR4}:7000/udp, [${FAR6}]:7000/udp`)), new Map());
    const without = (...rules: readonly string[]): Promise<void> => {
      for (const rule of rules) expect(program).toContain(`    ${rule}\n`);
      const lines = program.split('\n').filter((line) => !rules.includes(line.trim()));
      return applyLanProgram(exec, ns.path, lines.join('\n'));
    };
    const judged = 'fib saddr type != local goto forged';
    const leaving = 'meta oifkind "macvlan" ct state new fib saddr type != local drop';
    const refused = 'fib saddr type != local drop';
    await without();
    expect(await send(7000, { 4: '10.9.0.2', 6: 'fd09::2' })).toEqual({ own4: 1, own6: 1 });
    for (const rule of [judged, leaving, refused]) {
      await without(rule);
      expect([rule, await send(7000), await send(7001)]).toEqual([rule, {}, {}]);
    }
    await without(judged, leaving, refused);
    expect([await send(7000), await send(7001)]).toEqual([
      { forged4: 1, forged6: 1 },
      { refusal4: 1, refusal6: 1 },
    ]);
  });

  it('what others change is seen, learned members are not', async () => {
    const m = onLan(`${FAR4}, api.example.com`);
    await applyLanProgram(exec, ns.path, lanProgram(inputFor(m), new Map()));
    const [stood, at] = [await lanFingerprint(exec, ns.path), generationIn(ns.path)];
    const learned = [...compile(input(m)).sets.values()].find(
      (s) => s.timed && s.family === 4 && s.name.includes(m.id.slice(0, 12)),
    );
    putLanMember(ns.path, learned?.name ?? '', '10.9.0.4', 60);
    expect(generationIn(ns.path)).not.toBe(at);
    expect(await lanFingerprint(exec, ns.path)).toBe(stood);
    ns.run('nft', 'flush', 'chain', 'inet', 'drawbridge_lan', 'judge');
    expect(await lanFingerprint(exec, ns.path)).not.toBe(stood);
    ns.run('nft', 'delete', 'table', 'inet', 'drawbridge_lan');
    expect(await lanFingerprint(exec, ns.path)).toBeUndefined();
    expect(lanKey(inputFor(m))).toBe(lanKey(inputFor(onLan(`${FAR4}, api.example.com`))));
  });

  it('knows the links, and holds frames that no socket of IP made', async () => {
    const [end] = await lanEnds(ns.path);
    expect(end).toMatchObject({ device: 'm0', addresses: expect.arrayContaining(['10.9.0.2', 'fd09::2']) });
    await applyLanProgram(exec, ns.path, lanFramesProgram(['m0'], ['10.9.0.2', 'fd09::2']));
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([true, true]);
    await applyLanProgram(exec, ns.path, lanFramesProgram([], []));
  });

  it('frames of a closed namespace are closed once, and not where it has been opened or judged since', async () => {
    const close = (): Promise<void> => applyLanProgram(exec, ns.path, lanClosedFramesProgram(['m0']));
    await expect(close()).rejects.toThrow('No such file');
    closeLan(ns.path);
    await close();
    expect(ns.run('nft', 'list', 'table', 'netdev', 'drawbridge_lan')).toContain('policy drop');
    await expect(close()).rejects.toThrow('File exists');
    await lay(`${FAR4}, [${FAR6}]`);
    await applyLanProgram(exec, ns.path, lanFramesProgram(['m0'], ['10.9.0.2', 'fd09::2']));
    await expect(close()).rejects.toThrow('File exists');
    expect([await pings(FAR4), await pings(FAR6)]).toEqual([true, true]);
    expect(removeLan(ns.path)).toBe(true);
    expect(ns.run('nft', 'list', 'ruleset')).toBe('');
  });
});
