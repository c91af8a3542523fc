import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { applyPlan, planSteps } from '../../src/kernel/apply.js';
import { Dataplane } from '../../src/kernel/dataplane.js';
import type { Exec } from '../../src/kernel/exec.js';
import { NftElements } from '../../src/kernel/netlink/nft-codec.js';
import { observe } from '../../src/kernel/read-rules.js';
import { compile } from '../../src/ruleset/compile.js';
import { layoutMarks } from '../../src/ruleset/marks.js';
import { input, member, shape } from '../pure/ruleset/sample.js';
import { makeNetns, type Netns } from './in-netns.js';

let ns: Netns;
beforeEach(() => {
  ns = makeNetns();
  ns.run('iptables', '-N', 'DOCKER-USER');
  ns.run('iptables', '-A', 'FORWARD', '-j', 'DOCKER-USER');
  ns.run('iptables', '-A', 'DOCKER-USER', '-s', '10.9.9.9', '-j', 'DROP');
});
afterEach(() => ns[Symbol.dispose]());

const POLICY =
  'api.github.com, 10.1.0.0/16:5432, [2001:db8::/32]:443, any:443, host:8125/udp, host:80, 224.0.0.251:5353/udp, [ff02::fb]:5353/udp, 10.9.0.1:53/udp dns=direct, 192.0.2.9/icmp';
const none = () => undefined;

describe('the kernel takes a desired state and gives it back', () => {
  it('holds it after one pass, in both families', async () => {
    const desired = compile(input(member(2, POLICY), member(17, 'a.org', 'observe'), member(300, '', 'off')));
    const plane = new Dataplane(ns.exec, shape, none);
    expect((await plane.apply(desired)).changed).toBe(true);
    const again = planSteps(shape, desired, await observe(ns.exec, 'DB', none));
    expect(again.stages).toEqual([]);
    expect((await plane.apply(desired)).changed).toBe(false);
    expect(ns.run('iptables', '-S', 'DOCKER-USER')).toMatch(
      /-A DOCKER-USER .*-j DB-FORWARD\n-A DOCKER-USER -s 10.9.9.9/,
    );
  });

  it('keeps its jump ahead of what others put before it, and takes the move for a change', async () => {
    const desired = compile(input(member(2, POLICY)));
    const plane = new Dataplane(ns.exec, shape, none);
    await plane.apply(desired);
    for (const [tool, source] of [
      ['iptables', '10.8.8.8'],
      ['ip6tables', 'fd00::8'],
    ] as const)
      for (const [table, chain] of [
        ['filter', 'INPUT'],
        ['filter', 'OUTPUT'],
        ['security', 'FORWARD'],
        ['security', 'INPUT'],
        ['nat', 'PREROUTING'],
        ...(tool === 'iptables' ? [['filter', 'DOCKER-USER'] as const] : []),
      ] as const) {
        ns.run(tool, '-t', table, '-I', chain, '-s', source, '-j', 'ACCEPT');
        plane.invalidate();
        expect([tool, table, chain, (await plane.apply(desired)).repaired]).toEqual([
          tool,
          table,
          chain,
          true,
        ]);
        const [, ...rules] = ns.run(tool, '-t', table, '-S', chain).trim().split('\n');
        const theirs = rules.findIndex((r) => r.includes(source));
        const ours = rules.map((r) => / -j DB-/.test(r));
        expect(theirs).toBe(ours.filter(Boolean).length);
        expect(ours.indexOf(false)).toBe(theirs);
      }
  });

  it('knows the addresses that unattributed senders may not use', async () => {
    const base = input(member(2, POLICY), member(3, '', 'observe'));
    const subnets = [
      '172.18.0.0/16',
      '172.18.4.0/24',
      '172.18.0.0/16',
      '192.0.2.7/32',
      'fd00:18::/64',
      'fd00:19::7/128',
    ];
    const desired = compile({
      ...base,
      unattributed: [900],
      unattributedMode: 'enforce',
      bridges: base.bridges.map((b) => ({ ...b, subnets })),
    });
    expect([...desired.bridge.net4, ...desired.bridge.net6]).toEqual([
      '172.18.0.0/16',
      '192.0.2.7',
      'fd00:18::/64',
      'fd00:19::7',
    ]);
    const plane = new Dataplane(ns.exec, shape, none);
    await plane.apply(desired);
    expect(planSteps(shape, desired, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
    const later = compile({
      ...base,
      bridges: base.bridges.map((b) => ({ ...b, subnets: ['172.18.4.0/24'] })),
    });
    await plane.apply(later);
    expect(planSteps(shape, later, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
  });

  it('goes from any state to any other, and takes a member out without trace', async () => {
    const plane = new Dataplane(ns.exec, shape, none);
    await plane.apply(compile(input(member(2, POLICY), member(3, 'b.org:8000-8100/tcp+udp'))));
    const later = compile(input(member(3, 'b.org'), member(40, '*.c.org')));
    await plane.apply(later);
    expect(planSteps(shape, later, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
    expect(ns.run('iptables-save')).not.toContain('DB-c-000000000002');
    expect(ns.run('ipset', 'list', '-n')).not.toContain('DB-000000000002');
  });

  it('says which sets it made, also where the pass that made them failed behind it', async () => {
    const desired = compile(input(member(2, 'api.github.com')));
    let failing = true;
    const plane = new Dataplane(
      (file, args, options) => {
        if (failing && file === 'ip6tables-restore') return Promise.reject(new Error('not now'));
        return ns.exec(file, args, options);
      },
      shape,
      none,
    );
    await expect(plane.apply(desired)).rejects.toThrow('not now');
    const learned = /^DB-000000000002-\w+4l$/m.exec(ns.run('ipset', 'list', '-n'))?.[0] ?? '';
    expect(learned).toMatch(/./);
    failing = false;
    expect((await plane.apply(desired)).refill).toEqual(
      expect.arrayContaining([learned, 'DB-threat-ip4', 'DB-threat-in-net6']),
    );
    plane.invalidate();
    expect((await plane.apply(desired)).refill).toEqual([]);
  });

  it('repairs what others flushed, and leaves what is theirs', async () => {
    const plane = new Dataplane(ns.exec, shape, none);
    const desired = compile(input(member(2, POLICY)));
    await plane.apply(desired);
    ns.run('iptables', '-F', 'DOCKER-USER');
    ns.run('iptables', '-A', 'DOCKER-USER', '-s', '10.8.8.8', '-j', 'DROP');
    ns.run('ip6tables', '-F');
    ns.run('iptables', '-t', 'security', '-F');
    ns.run('nft', 'delete', 'table', 'bridge', 'drawbridge');
    plane.invalidate();
    expect(await plane.apply(desired)).toMatchObject({ changed: true, repaired: true });
    expect(planSteps(shape, desired, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
    expect(ns.run('iptables', '-S', 'DOCKER-USER')).toMatch(/-j DB-FORWARD\n-A DOCKER-USER -s 10.8.8.8/);
  });

  it.each([
    ['flush', 'table', 'bridge', 'drawbridge'],
    ['flush', 'chain', 'bridge', 'drawbridge', 'ports'],
    ['insert', 'rule', 'bridge', 'drawbridge', 'lift', 'accept'],
    ['delete', 'chain', 'bridge', 'drawbridge', 'ports'],
    ['flush', 'table', 'inet', 'drawbridge_backstop'],
    ['delete', 'table', 'inet', 'drawbridge_backstop'],
  ])('sees and repairs nft %s %s', async (...command) => {
    const plane = new Dataplane(ns.exec, shape, none);
    const desired = compile(input(member(2, POLICY)));
    await plane.apply(desired);
    const listed = (): string[] =>
      ['bridge drawbridge', 'inet drawbridge_backstop'].flatMap((t) =>
        ns
          .run('nft', '-s', 'list', 'table', ...t.split(' '))
          .split('\n')
          .sort(),
      );
    const before = listed();
    ns.run('nft', ...command);
    plane.invalidate();
    expect(await plane.apply(desired)).toMatchObject({ changed: true, repaired: true });
    expect(listed()).toEqual(before);
    plane.invalidate();
    expect(await plane.apply(desired)).toMatchObject({ changed: false, repaired: false });
  });

  it('moves from FORWARD to DOCKER-USER when Docker makes it', async () => {
    ns.run('iptables', '-F');
    ns.run('iptables', '-X', 'DOCKER-USER');
    const plane = new Dataplane(ns.exec, shape, none);
    const desired = compile(input(member(2, POLICY)));
    await plane.apply(desired);
    expect(ns.run('iptables', '-S', 'FORWARD')).toContain('DB-FORWARD');
    ns.run('iptables', '-N', 'DOCKER-USER');
    ns.run('iptables', '-I', 'FORWARD', '-j', 'DOCKER-USER');
    plane.invalidate();
    await plane.apply(desired);
    expect(ns.run('iptables', '-S', 'FORWARD')).not.toContain('DB-FORWARD');
    expect(ns.run('iptables', '-S', 'DOCKER-USER')).toContain('DB-FORWARD');
  });

  it('closes every port first when marks get another meaning, and only then', async () => {
    const plane = new Dataplane(ns.exec, shape, none);
    await plane.apply(compile(input(member(2, POLICY))));
    ns.run('nft', 'insert', 'rule', 'bridge', 'drawbridge', 'lift', 'accept');
    const other = { ...shape, marks: layoutMarks(0x3f001fff) };
    const desired = compile({ ...input(member(2, POLICY)), shape: other });
    const firstOf = async (s: typeof shape): Promise<string> =>
      planSteps(s, desired, await observe(ns.exec, 'DB', none)).stages[0]?.[0]?.script ?? '';
    expect(await firstOf(shape)).not.toContain('flush chain bridge drawbridge ports');
    expect(await firstOf(other)).toContain('ports meta iifkind "veth" iif != @exempt drop');
    await new Dataplane(ns.exec, other, none).apply(desired);
    expect(planSteps(other, desired, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
    const table = ns.run('nft', 'list', 'table', 'bridge', 'drawbridge');
    expect(table).not.toContain('iif != @exempt drop');
  });

  it('changes only what differs', async () => {
    const observed = await observe(ns.exec, 'DB', none);
    const before = compile(input(member(2, 'a.org'), member(3, 'b.org')));
    await applyPlan(ns.exec, planSteps(shape, before, observed));
    const plan = planSteps(
      shape,
      compile(input(member(2, 'a.org'), member(3, 'b.org, 10.0.0.1:22'))),
      await observe(ns.exec, 'DB', none),
    );
    const text = plan.stages
      .flat()
      .map((s) => s.script)
      .join('');
    expect(text).not.toContain('DB-c-000000000002');
    expect(text).toContain('DB-c-000000000003');
  });
});

describe('a reading that began before it was needed', () => {
  const desired = compile(input(member(2, POLICY), member(17, 'a.org', 'observe')));
  let reads: string[];
  let elements: NftElements;
  beforeEach(async () => {
    await new Dataplane(ns.exec, shape, none).apply(desired);
    elements = new NftElements({ namespace: ns.path });
    reads = [];
  });
  afterEach(() => elements.close());
  const counting: Exec = (file, args, options) => {
    if (file === 'iptables-save') reads.push(file);
    return ns.exec(file, args, options);
  };

  it('is the one that the first pass uses', async () => {
    const plane = new Dataplane(counting, shape, none);
    plane.readAhead(() => elements.generation());
    expect((await plane.apply(desired)).changed).toBe(false);
    expect(reads).toHaveLength(1);
    plane.invalidate();
    expect((await plane.apply(desired)).changed).toBe(false);
    expect(reads).toHaveLength(2); // it is used once
  });

  it.each([
    ['iptables', '-F', 'DB-FORWARD'],
    ['ip6tables', '-F', 'OUTPUT'],
    ['nft', 'delete', 'table', 'bridge', 'drawbridge'],
  ])('does not count after a change: %s %s %s', async (...command) => {
    const plane = new Dataplane(counting, shape, none);
    plane.readAhead(() => elements.generation());
    ns.run(...(command as [string, ...string[]]));
    expect((await plane.apply(desired)).changed).toBe(true);
    expect(reads).toHaveLength(2);
    expect(planSteps(shape, desired, await observe(ns.exec, 'DB', none)).stages).toEqual([]);
  });

  it('fails, and is read again', async () => {
    let isBroken = true;
    const failing: Exec = (file, args, options) =>
      isBroken && file === 'iptables-save'
        ? Promise.reject(new Error('broken'))
        : counting(file, args, options);
    const plane = new Dataplane(failing, shape, none);
    plane.readAhead(() => elements.generation());
    isBroken = false;
    expect((await plane.apply(desired)).changed).toBe(false);
    expect(reads).toHaveLength(1);
  });
});
