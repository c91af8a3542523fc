/** TCP sockets that are reset from outside of their program: both sides know at once, nothing else ends, and no wait for one has no end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server, Socket } from 'node:net';
import { constants } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ConnectionResets } from '../../../src/enforce/connection-ends.js';
import { type Exec, exec } from '../../../src/kernel/exec.js';
import { tcpConnectFd, tcpListenFd } from '../../../src/kernel/netlink/namespace.js';
import { resetSockets } from '../../../src/kernel/sockets.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../../pure/bare-flow.js';
import { member } from '../../pure/ruleset/sample.js';
import { makeNamespace, type Namespace, until } from './lab.js';

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('diag');
});
afterAll(() => {
  ns[Symbol.dispose]();
});

interface Side {
  readonly socket: Socket;
  end: string | undefined;
}
function watched(socket: Socket): Side {
  const side: Side = { socket, end: undefined };
  socket.on('error', (e: NodeJS.ErrnoException) => (side.end ??= e.code));
  socket.on('end', () => (side.end ??= 'FIN'));
  socket.resume();
  return side;
}

it.each([
  [4, '127.0.0.1'],
  [6, '::1'],
] as const)(
  'IPv%i: an idle connection ends with an error at both sides; another one, and the listener, stay',
  async (family, address) => {
    const accepted: Side[] = [];
    const server: Server = createServer((s) => accepted.push(watched(s)));
    const place = { family, address, port: 7300, namespace: ns.path };
    server.listen({ fd: tcpListenFd(place) });
    await until('the server to listen', () => server.listening);
    const open = (): Side => watched(new Socket({ fd: tcpConnectFd(place, place) }));
    const [ended, other] = [open(), open()];
    await until('two connections', () => accepted.length === 2);
    const tupleOf = ({ remotePort: sport = 0 }: Socket) =>
      ({ src: address, sport, dst: address, dport: 7300 }) as const;
    const [first, second] = accepted.map((a) => tupleOf(a.socket));
    if (!first || !second) throw new Error('no connection');
    const gone = { ...first, sport: 1 };

    await resetSockets(exec, ns.path, [gone, first]);
    const firstOnes = [ended, accepted[0]];
    await until('both sides to know', () => firstOnes.every((s) => s?.end !== undefined));
    expect(accepted[0]?.end).toBe('ECONNRESET');

    // the same connection again, from its other end: its port is that of the socket that listens
    const { src, dst, sport, dport } = first;
    await resetSockets(exec, ns.path, [first, { src: dst, sport: dport, dst: src, dport: sport }]);
    const third = open();
    await until('the listener to accept', () => accepted.length === 3);
    expect([other.end, accepted[1]?.end]).toEqual([undefined, undefined]);
    for (const s of [third, other, ...accepted]) s.socket.destroy();
    server.close();
  },
);

it('a program that keeps the lock of its socket holds up no revocation, and has one process at a time', async () => {
  const program = join(import.meta.dirname, 'hold-lock.py');
  const holder = spawn('nsenter', [`--net=${ns.path}`, '--', 'python3', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: holder.stdout })[Symbol.asyncIterator]();
  try {
    const [sport = 0, dport = 0] = String((await lines.next()).value)
      .split(' ')
      .map(Number);
    const m = member(1, '', 'enforce', [
      { mac: '02:00:00:00:00:01', bridge: 'br', ifindex: 7, ip4: '127.0.0.1' },
    ]);
    const state = {
      subjects: new Map([[m.id, m]]),
      vethMap: { bindings: new Map([[7, { container: m.id }]]) },
    } as unknown as AppliedState;
    let started = 0;
    let isEnded = false;
    const run: Exec = async (...command) => {
      started += 1;
      const result = await exec(...command);
      isEnded = true;
      return result;
    };
    const resets = new ConnectionResets({
      applied: { value: state },
      kernel: { hostAddresses: () => new Set() },
      namespaces: { pathOf: () => ns.path },
      run,
      log: { debug: () => undefined },
    });
    const orig = { src: '127.0.0.1', sport, dst: '127.0.0.1', dport };
    const flow: Flow = { ...BARE_FLOW, family: 4, proto: 6, mark: 0, orig, reply: orig };
    await resets.reset([flow]);
    await resets.reset([flow]);
    expect({ started, isEnded }).toEqual({ started: 1, isEnded: false });

    holder.stdin.write('\n');
    expect((await lines.next()).value).toBe(`${constants.errno.ECONNABORTED}`); // of IPv4, at a socket of IPv6
    await until('the process to end', () => isEnded);
    await resets.reset([flow]);
    expect(started).toBe(2);
  } finally {
    holder.stdin.end();
    holder.kill('SIGKILL');
    if (holder.exitCode === null && holder.signalCode === null) await once(holder, 'exit');
  }
});
