import { execFile, execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import type { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Links } from '../../../src/kernel/netlink/links.js';
import { tcpListenFd, udpSocketFd } from '../../../src/kernel/netlink/namespace.js';
import { startThread } from '../../../src/lib/thread.js';
import {
  ContainerNamespaces,
  type ContainerNamespacesOptions,
} from '../../../src/namespaces/container-namespaces.js';
import {
  closeResolver,
  haveResolverRules,
  installResolverRules,
  prepareResolver,
  removeResolverRules,
  resumeResolver,
} from '../../../src/namespaces/resolver-rules.js';
import { Sandboxes } from '../../../src/namespaces/sandboxes.js';
import { Authority, a } from '../dns/authority.js';
import { queryFor } from '../dns/client.js';
import { House } from '../dns/house.js';
import { makeNetns, type Netns } from '../in-netns.js';

/** Asks from inside the namespace, in a process of its own; prints the answer's bytes in hex. */
const asker = `
const [proto, address, port, hex, source] = process.argv.slice(1);
const q = Buffer.from(hex, 'hex');
const done = (s) => { console.log(s); process.exit(0); };
setTimeout(() => done('silence'), 1500);
if (proto === 'udp') {
  const s = require('dgram').createSocket('udp4');
  s.on('error', (e) => done(e.code));
  s.on('message', (m) => done(m.toString('hex')));
  s.bind(0, source || undefined, () => s.connect(Number(port), address, () => s.send(q)));
} else {
  const s = require('net').connect({ host: address, port: Number(port), localAddress: source || undefined });
  const l = Buffer.alloc(2); l.writeUInt16BE(q.length);
  s.on('connect', () => s.write(Buffer.concat([l, q])));
  s.on('error', (e) => done(e.code));
  s.on('data', (m) => done(m.subarray(2).toString('hex')));
}`;
/** Puts queries for Docker's port straight on lo: as a new flow, and as a "reply" on a flow that stands. */
const forger = `
import socket, struct, sys
docker, ours = int(sys.argv[1]), int(sys.argv[2])
def total(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
q = b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x04evil\\x04test\\0\\0\\x01\\0\\x01'
def frame(src, sport, dst, dport):
    udp = struct.pack('!HHHH', sport, dport, 8 + len(q), 0) + q
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
    ip = ip[:10] + struct.pack('!H', total(ip)) + ip[12:]
    return bytes(12) + b'\\x08\\0' + ip + udp
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('lo', 0))
for f in [frame('127.0.0.1', 4000, '127.0.0.11', docker), frame('127.0.0.11', docker, '127.0.0.11', ours),
          frame('127.0.0.11', ours, '127.0.0.11', docker), frame('127.0.0.1', 53, '127.0.0.11', docker)]: s.send(f)
print('sent')`;
/** The address in an answer with one A record; the code or "silence" when there is none. */
function outcome(text: string): string {
  const hex = text.trim();
  if (!/^([0-9a-f]{2})+$/.test(hex)) return hex;
  const message = Buffer.from(hex, 'hex');
  return message.readUInt16BE(6) > 0 ? 'answered' : `rcode ${message.readUInt16BE(2) & 15}`;
}

const execFileAsync = promisify(execFile);
const embeddedResolver = '127.0.0.11';
const port = 24_053;
const dockerPort = 39_053;
let ns: Netns;
let up: Authority;
/** Docker's resolver: answers everything, from inside the namespace. */
let docker: Authority;
let house: House;
/** In a process of its own, while this one answers. */
async function run(proto: string, to: number, name: string, source = ''): Promise<string> {
  const query = queryFor(name).toString('hex');
  const args = ['-e', asker, proto, embeddedResolver, String(to), query, source];
  const { stdout } = await execFileAsync('nsenter', [`--net=${ns.path}`, '--', process.execPath, ...args]);
  return outcome(stdout);
}
beforeAll(async () => {
  ns = makeNetns();
  ns.run('ip', 'link', 'set', 'lo', 'up');
  // Without it the kernel takes forged loopback packets for martians; a user may have set it for a container.
  ns.run('sysctl', '-qw', 'net.ipv4.conf.all.route_localnet=1');
  up = await new Authority('127.0.0.1', (name) => ({ answers: [a(name, '198.51.100.1')] })).start();
  docker = new Authority(embeddedResolver, (name) => ({ answers: [a(name, '198.51.100.2')] }));
  const inside = { family: 4, address: embeddedResolver, port: dockerPort, namespace: ns.path } as const;
  docker.serve(udpSocketFd(inside), tcpListenFd(inside));
  house = new House({ upstreams: [up.endpoint] });
  house.policy.allowed.set('good.test', {});
  const place = { family: 4, address: embeddedResolver, port, namespace: ns.path } as const;
  house.service.attachNamespace('boxed', place.namespace, {
    udpFd: udpSocketFd(place),
    tcpFd: tcpListenFd(place),
  });
  installResolverRules(ns.path, port);
});
afterAll(() => {
  house.close();
  up.close();
  docker.close();
  ns[Symbol.dispose]();
});

/** What moby puts there (libnetwork/resolver_unix.go), and may put there again after our rules. */
function dockerRules(): void {
  const ipt = (...args: string[]) => ns.run('iptables', '-t', 'nat', ...args);
  ipt('-N', 'DOCKER_OUTPUT');
  ipt('-N', 'DOCKER_POSTROUTING');
  for (const proto of ['tcp', 'udp']) {
    ipt(
      '-A',
      'DOCKER_OUTPUT',
      '-d',
      embeddedResolver,
      '-p',
      proto,
      '--dport',
      '53',
      '-j',
      'DNAT',
      '--to-destination',
      `${embeddedResolver}:${dockerPort}`,
    );
    ipt(
      '-A',
      'DOCKER_POSTROUTING',
      '-s',
      embeddedResolver,
      '-p',
      proto,
      '--sport',
      String(dockerPort),
      '-j',
      'SNAT',
      '--to-source',
      ':53',
    );
  }
  ipt('-I', 'OUTPUT', '-d', embeddedResolver, '-j', 'DOCKER_OUTPUT');
  ipt('-I', 'POSTROUTING', '-d', embeddedResolver, '-j', 'DOCKER_POSTROUTING');
}

const transports = ['udp', 'tcp'] as const;

describe("inside a container's namespace", () => {
  it.each(transports)('the socket says who asks, over %s', async (proto) => {
    const answers = await Promise.all([53, port].map((to) => run(proto, to, 'good.test')));
    expect(answers).toEqual(['answered', 'answered']);
    expect(await run(proto, 53, 'evil.test')).toBe('rcode 3');
    expect(house.events.at(-1)).toMatchObject({ container: 'boxed', name: 'evil.test', verdict: 'deny' });
    expect(house.sets.members.get('boxed-v4 198.51.100.1')).toBeGreaterThan(0);
  });
});

describe("Docker's rules, put there after ours", () => {
  beforeAll(dockerRules);

  it.each(transports)('do not win over %s', async (proto) => {
    expect(await run(proto, 53, 'good.test')).toBe('answered');
    expect(await run(proto, 53, 'evil.test')).toBe('rcode 3');
    expect(docker.log).toEqual([]);
  });

  it.each(transports)('lead to a resolver whose port is closed to the container over %s', async (proto) => {
    expect(await run(proto, dockerPort, 'evil.test')).toBe('ECONNREFUSED');
    expect(await run(proto, dockerPort, 'evil.test', embeddedResolver)).toBe('silence');
    expect(docker.log).toEqual([]);
  });

  it('closes it to packets that no output hook sees', async () => {
    expect(ns.run('python3', '-c', forger, String(dockerPort), String(port))).toContain('sent');
    expect(await run('udp', 53, 'good.test')).toBe('answered');
    expect(docker.log).toEqual([]);
  });

  it('win again when ours are gone, so that they were tried in earnest', async () => {
    expect(await removeResolverRules(ns.path)).toBe(true);
    expect(await removeResolverRules(ns.path)).toBe(false);
    expect(await run('udp', 53, 'evil.test')).toBe('answered');
    expect(docker.log).toHaveLength(1);
    ns.run('python3', '-c', forger, String(dockerPort), String(port));
    await expect.poll(() => docker.log.length).toBeGreaterThan(1);
    installResolverRules(ns.path, port);
    installResolverRules(ns.path, port);
    expect(await run('udp', 53, 'evil.test')).toBe('rcode 3');
  });
});

/** Asks for each name that is written to its input, all from one UDP socket; prints the names that were answered. */
const oneSocket = `
const s = require('dgram').createSocket('udp4');
s.on('message', (m) => console.log(m.subarray(13, 13 + m[12]).toString()));
s.connect(53, '127.0.0.11', () => {
  console.log('ready');
  require('readline').createInterface({ input: process.stdin }).on('line', (hex) => s.send(Buffer.from(hex, 'hex')));
});
process.stdin.on('end', () => process.exit(0));`;

describe('a namespace that turns out to ask Docker', () => {
  it('has what was asked before answered by Docker, also what the same socket asks later', async () => {
    const sockets = await prepareResolver(ns.path);
    const client = spawn('nsenter', [`--net=${ns.path}`, '--', process.execPath, '-e', oneSocket]);
    try {
      let printed = '';
      client.stdout.on('data', (text) => {
        printed += String(text);
      });
      const prints = (text: string) => expect.poll(() => printed, { timeout: 10_000 }).toContain(text);
      const asks = (name: string) => client.stdin.write(`${queryFor(name).toString('hex')}\n`);
      await prints('ready');
      docker.log.length = 0;
      asks('before.test');
      expect(await run('udp', 53, 'other.test')).toBe('silence'); // 1.5 s: nobody answers yet
      expect(docker.log).toEqual([]);
      await removeResolverRules(ns.path);
      const inside = { family: 4, address: '127.0.0.1', port: 0, namespace: ns.path } as const;
      using _passing = house.service.passOn(ns.path, sockets, () => udpSocketFd(inside));
      await prints('before');
      asks('later.test');
      await prints('later');
      expect(await run('udp', 53, 'evil.test')).toBe('answered');
      expect(await run('tcp', 53, 'evil.test')).toBe('answered');
      expect(docker.log.length).toBeGreaterThanOrEqual(4);
    } finally {
      client.kill();
    }
  });
});

describe('a namespace with the rules of an earlier run', () => {
  let other: Netns;
  let earlier: number;
  beforeEach(async () => {
    other = makeNetns();
    other.run('ip', 'link', 'set', 'lo', 'up');
    const sockets = await prepareResolver(other.path);
    earlier = sockets.port;
    closeResolver(sockets);
  });
  afterEach(() => other[Symbol.dispose]());
  const listed = (): string => other.run('nft', '-a', 'list', 'table', 'inet', 'drawbridge');

  it('keeps them, and has sockets at their port', async () => {
    const before = listed();
    const sockets = await resumeResolver(other.path);
    expect([sockets.port, listed()]).toEqual([earlier, before]);
    expect(other.run('ss', '-Hlnu', '-Hlnt')).toContain(`127.0.0.11:${earlier}`);
    closeResolver(sockets);
  });

  it.each([
    ['delete', 'rule', 'inet', 'drawbridge', 'resolver_out', 'handle', '9'],
    ['insert', 'rule', 'inet', 'drawbridge', 'resolver_nat', 'accept'],
    ['flush', 'chain', 'inet', 'drawbridge', 'resolver_in'],
    ['add', 'chain', 'inet', 'drawbridge', 'resolver_other'],
    ['add', 'table', 'inet', 'drawbridge', '{ flags dormant; }'],
  ])('replaces them after nft %s %s', async (...command) => {
    const whole = listed();
    other.run('nft', ...command);
    expect(listed()).not.toBe(whole);
    const sockets = await resumeResolver(other.path);
    expect(listed().replaceAll(String(sockets.port), String(earlier))).toBe(
      whole.replace(
        /inet drawbridge \{ # handle \d+/,
        /inet drawbridge \{ # handle \d+/.exec(listed())?.[0] ?? '',
      ),
    );
    closeResolver(sockets);
  });

  it('replaces them when a process in the container has bound the port', async () => {
    const place = { family: 4, address: embeddedResolver, port: earlier, namespace: other.path } as const;
    const taken = udpSocketFd(place);
    const sockets = await resumeResolver(other.path);
    expect(sockets.port).not.toBe(earlier);
    expect(listed()).toContain(String(sockets.port));
    expect(listed()).not.toContain(String(earlier));
    closeResolver(sockets);
    closeSync(taken);
  });

  it('without rules is prepared as a new one', async () => {
    await removeResolverRules(other.path);
    const sockets = await resumeResolver(other.path);
    expect(listed()).toContain(String(sockets.port));
    closeResolver(sockets);
  });
});

describe('namespaces that a start finds', () => {
  const made: Netns[] = [];
  let folder: string;
  let sandboxes: Sandboxes;
  let thread: Worker | undefined;
  const quiet = { debug: () => undefined, error: () => undefined };
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'sandboxes-'));
    sandboxes = new Sandboxes(quiet, (script) => {
      thread = startThread(script);
      return thread;
    });
    for (const name of ['with', 'without']) {
      const netns = makeNetns();
      netns.run('ip', 'link', 'set', 'lo', 'up');
      symlinkSync(netns.path, join(folder, name));
      made.push(netns);
    }
    installResolverRules(join(folder, 'with'), 20_000);
  });
  afterEach(async () => {
    await sandboxes[Symbol.asyncDispose]();
    for (const netns of made.splice(0)) netns[Symbol.dispose]();
    rmSync(folder, { recursive: true });
  });
  const hasRules = (name: string): boolean | undefined => {
    const path = join(folder, name);
    return haveResolverRules([path]).get(path);
  };
  const found = async () => {
    const links = new Links();
    const kernel = { linkTable: links, linkReports: 1, namespaceBehind: (veth: number) => veth };
    const folders = Object.assign([folder], { note: () => undefined });
    const parts = { sandboxes, kernel, folders, dns: {} } as unknown as ContainerNamespacesOptions;
    const namespaces = new ContainerNamespaces(parts);
    const without = await namespaces.findSandboxes();
    return { namespaces, kernel, links, without };
  };

  it('have rules or not, and the thread is in its own namespace afterwards', () => {
    const own = readlinkSync('/proc/thread-self/ns/net');
    const paths = ['with', 'missing', 'without'].map((name) => join(folder, name));
    expect([...haveResolverRules(paths).values()]).toEqual([true, false]);
    expect(readlinkSync('/proc/thread-self/ns/net')).toBe(own);
  });

  it('lose the rules of an earlier run', async () => {
    const { namespaces } = await found();
    await namespaces.detach(join(folder, 'with'));
    expect(hasRules('with')).toBe(false);
  });

  it.each(['is there', 'comes later', 'comes again'])('are prepared in a folder that %s', async (when) => {
    const seen: string[] = [];
    sandboxes.reported.subscribe((report) => {
      if ('path' in report) seen.push(`${report.kind} ${report.path}`);
      if (report.kind === 'prepared') closeResolver(report.sockets);
    });
    const place = join(folder, 'run', 'docker', 'netns');
    const make = (name: string): void => {
      mkdirSync(place, { recursive: true });
      symlinkSync(made[1]?.path ?? '', join(place, name));
    };
    const isSeen = (name: string): Promise<void> =>
      expect
        .poll(() => seen, { timeout: 5_000 })
        .toEqual(expect.arrayContaining([`appeared ${join(place, name)}`, `prepared ${join(place, name)}`]));
    if (when !== 'comes later') mkdirSync(place, { recursive: true });
    sandboxes.follow(place);
    sandboxes.arm({ prepare: true });
    await sandboxes.survey(['/']); // it is followed
    await new Promise((resume) => setTimeout(resume, 50));
    if (when === 'comes again') {
      rmSync(join(folder, 'run'), { recursive: true });
      await new Promise((resume) => setTimeout(resume, 50));
    }
    make('0123456789ab');
    await isSeen('0123456789ab');
    make('0123456789ac');
    await isSeen('0123456789ac');
  });

  it('are prepared when the thread is there again, if they were made while it was away', async () => {
    const seen: string[] = [];
    sandboxes.reported.subscribe((report) => {
      if ('path' in report) seen.push(`${report.kind} ${basename(report.path)}`);
      if (report.kind === 'prepared') closeResolver(report.sockets);
    });
    symlinkSync(made[1]?.path ?? '', join(folder, '0123456789aa'));
    sandboxes.follow(folder);
    sandboxes.arm({ prepare: true });
    await sandboxes.survey(['/']); // it is followed
    await thread?.terminate();
    symlinkSync(made[1]?.path ?? '', join(folder, '0123456789ab'));
    await expect.poll(() => seen, { timeout: 5_000 }).toContain('prepared 0123456789ab');
    expect(seen.filter((text) => !text.endsWith('ab'))).toEqual([]);
  });

  it('are reported when they have no rules', async () => {
    const { without } = await found();
    expect(without).toEqual([join(folder, 'without')]);
  });

  it('lose the rules that this run has installed since', async () => {
    const { namespaces } = await found();
    await namespaces.prepare(join(folder, 'without'));
    expect(hasRules('without')).toBe(true);
    await namespaces.detach(join(folder, 'without'));
    expect(hasRules('without')).toBe(false);
  });

  it('are found by their netns id, and are confirmed again after a change of a link', async () => {
    const [first, second] = made;
    execFileSync('ip', ['netns', 'set', first?.name ?? '', '7001']);
    const { namespaces, kernel, links } = await found();
    expect(namespaces.pathBehind(7001)).toBe(join(folder, 'with'));
    expect(links.namespaceId({ path: join(folder, 'with') })).toBe(7001);
    rmSync(join(folder, 'with'));
    first?.[Symbol.dispose]();
    made.splice(0, 1);
    await expect.poll(() => isFree(7001)).toBe(true);
    execFileSync('ip', ['netns', 'set', second?.name ?? '', '7001']);
    kernel.linkReports += 1;
    expect(namespaces.pathBehind(7001)).toBe(join(folder, 'without'));
  });
  const isFree = (id: number): boolean =>
    !execFileSync('ip', ['netns', 'list-id'], { encoding: 'utf8' }).includes(`nsid ${id} `);
});
