/** What a revocation waits for before it deletes flows: not for long, and for nothing that has no socket. */
import { expect, it, vi } from 'vitest';
import { ConnectionResets } from '../../../src/enforce/connection-ends.js';
import type { Exec } from '../../../src/kernel/exec.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';
import { member } from '../ruleset/sample.js';

const members = [1, 2].map((n) => member(n, ''));
const addressOf = (n: number): string => members[n]?.veths[0]?.ip4 ?? '';
const state = {
  subjects: new Map(members.map((m) => [m.id, m])),
  vethMap: {
    bindings: new Map(members.flatMap((m) => m.veths.map((v) => [v.ifindex, { container: m.id }] as const))),
  },
} as unknown as AppliedState;

const pathOfMember = (id: string): string => `/netns/${members.findIndex((m) => m.id === id)}`;
function resetting(hanging: readonly string[] = [], pathOf = pathOfMember) {
  const started: { readonly in: string; readonly filter: readonly string[] }[] = [];
  const run: Exec = (file, args, options) => {
    const place = file === 'ss' ? 'host' : (args[0] ?? '');
    started.push({ in: place, filter: options?.input?.trim().split('\n') ?? [] });
    if (hanging.includes(place)) return new Promise(() => undefined);
    return Promise.resolve({ code: 0, stdout: '', stderr: '' });
  };
  const resets = new ConnectionResets({
    applied: { value: state },
    kernel: { hostAddresses: () => new Set(['192.0.2.2']) },
    namespaces: { pathOf },
    run,
    log: { debug: () => undefined },
  });
  return { started, reset: resets.reset, refused: resets.refused };
}

const OPEN = { handshake: false, closed: false, pickedUp: false };
const flow = (src: string, sport: number, tcp: Flow['tcp'] = OPEN, proto = 6): Flow => ({
  ...BARE_FLOW,
  family: 4,
  proto,
  mark: 0,
  orig: { src, dst: '93.184.1.1', sport, dport: 80 },
  reply: { src: '93.184.1.1', dst: src, sport: 80, dport: sport },
  ...(tcp && { tcp }),
});

it('one process for each namespace, with its open connections only', async () => {
  const { started, reset } = resetting();
  await reset([
    flow(addressOf(0), 1),
    flow(addressOf(1), 2),
    flow(addressOf(0), 3),
    flow('192.0.2.2', 4),
    flow('93.184.7.7', 5), // of no container
    flow(addressOf(0), 6, undefined, 17),
  ]);
  expect(started).toEqual([
    {
      in: '--net=/netns/0',
      filter: [1, 3].map((n) => expect.stringContaining(`src ${addressOf(0)}:${n} dst 93.184.1.1:80`)),
    },
    { in: '--net=/netns/1', filter: [expect.stringContaining(':2 ')] },
    { in: 'host', filter: [expect.stringContaining(':4 ')] },
  ]);
});

it('a connection between containers is reset at both of its sockets', async () => {
  const { started, reset } = resetting();
  const [a, b] = [addressOf(0), addressOf(1)];
  const orig = { src: a, dst: b, sport: 1, dport: 80 };
  await reset([{ ...flow(a, 1), orig, reply: { src: b, dst: a, sport: 80, dport: 1 } }]);
  expect(started).toEqual([
    { in: '--net=/netns/0', filter: [expect.stringContaining(`src ${a}:1 dst ${b}:80`)] },
    { in: '--net=/netns/1', filter: [expect.stringContaining(`src ${b}:80 dst ${a}:1`)] },
  ]);
});

it('refused packets reset the socket of the neighbour, each connection once, and with few processes', async () => {
  vi.useFakeTimers();
  try {
    const { started, refused } = resetting();
    const [a, b] = [addressOf(0), addressOf(1)];
    for (let n = 0; n < 3; n++) refused({ src: a, sport: 7100, dst: b, dport: 5 });
    refused({ src: a, sport: 7100, dst: b, dport: 6 });
    refused({ src: a, sport: 7100, dst: '93.184.7.7', dport: 7 });
    expect(started).toEqual([]);
    await vi.advanceTimersByTimeAsync(1_000);
    const filter = [5, 6].map((port) => expect.stringContaining(`src ${b}:${port} dst ${a}:7100`));
    expect(started).toEqual([{ in: '--net=/netns/1', filter }]);
    for (let n = 0; n < 3_000; n++) refused({ src: a, sport: n, dst: b, dport: n });
    await vi.advanceTimersByTimeAsync(1_000);
    expect(started.slice(1).map((s) => s.filter.length)).toEqual([500]);
  } finally {
    vi.useRealTimers();
  }
});

it('many entries without a connection start no process, and of many connections some are reset', async () => {
  const { started, reset } = resetting();
  const many = Array.from({ length: 3_000 }, (_, n) => n);
  await reset(many.map((n) => flow(addressOf(0), n, { ...OPEN, [n % 2 ? 'handshake' : 'closed']: true })));
  expect(started).toEqual([]);
  await reset(many.map((n) => flow(addressOf(0), n)));
  expect(started.map((s) => s.filter.length)).toEqual([500]);
});

it('a namespace that cannot be found holds up nothing', async () => {
  const { started, reset } = resetting([], () => {
    throw new Error('no file descriptor is left');
  });
  await reset([flow(addressOf(0), 1)]);
  expect(started).toEqual([]);
});

it('a process that does not end holds up nothing, and no other one is started in its namespace', async () => {
  const { started, reset } = resetting(['--net=/netns/0']);
  const both = [flow(addressOf(0), 1), flow(addressOf(1), 2)];
  await reset(both);
  await reset(both);
  expect(started.map((s) => s.in)).toEqual(['--net=/netns/0', '--net=/netns/1', '--net=/netns/1']);
});
