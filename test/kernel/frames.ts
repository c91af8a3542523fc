/** Frames of containers through the rules of the kernel: sent and seen by packet sockets at both ends of veths. */
import { execFileSync, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { makeNetns, type Netns } from './in-netns.js';

/** Sends each step's frames, then a broadcast of the marker's veth: what came before that at the others has been seen. */
const PROGRAM = `
import ctypes, json, os, select, socket, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one backlog, so that frames stay in order
libc = ctypes.CDLL(None, use_errno=True)
def answer(ask):
    at, raw = {}, {}
    try:
        for name, (ns, dev) in ask['places'].items():
            fd = os.open(ns, os.O_RDONLY)
            if libc.setns(fd, 0x40000000) != 0: raise OSError(ctypes.get_errno(), ns)
            os.close(fd)
            at[name] = s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.bind((dev, 0))
            s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
            raw[name] = v = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            v.bind((dev, 0))
            v.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        return run(ask, at, raw)
    finally:
        for s in [*at.values(), *raw.values()]: s.close()
def run(ask, at, raw):
    waiting = [at[n] for n in ask['marked']]
    names = {s: n for n, s in at.items()}
    out = []
    for n, step in enumerate(ask['steps']):
        sender = (raw if step['virtio'] else at)[step['from']]
        sender.setsockopt(socket.SOL_SOCKET, 36, step['mark'])  # SO_MARK
        for frame in step['frames']: sender.send(bytes.fromhex(step['virtio'] + frame))
        time.sleep(step['restMs'] / 1000)
        marker = bytes.fromhex(ask['marker']) + b'marker %8d' % n
        at[ask['by']].send(marker)
        seen, missing = [], set(waiting)
        while missing:
            ready = select.select(list(names), [], [], 10)[0]
            if not ready: raise TimeoutError('step %d: no marker at %s' % (n, [names[s] for s in missing]))
            for s in ready:
                data, address = s.recvfrom(65536)
                if data == marker: missing.discard(s)
                elif address[2] != 4 and len(seen) < 10000: seen.append([names[s], data.hex()])  # not what it sends itself
        out.append(seen)
    return out
for line in sys.stdin: print(json.dumps(answer(json.loads(line))), flush=True)
`;

export interface Step {
  readonly from: string;
  readonly frames: readonly Buffer[];
  /** Of a packet that the host itself sends. */
  readonly mark?: number;
  /** Longer than another process takes to decide on the frames. */
  readonly restMs?: number;
  /** Before each frame, for the kernel (packet(7), PACKET_VNET_HDR): what it is to do with the frame on its way. */
  readonly virtio?: Virtio;
}
/** struct virtio_net_hdr. Offsets are from the beginning of the frame. */
export interface Virtio {
  /** Where to begin with a checksum, and where to write it from there; undefined: nowhere. */
  readonly checksum?: { readonly start: number; readonly offset: number };
  /** VIRTIO_NET_HDR_GSO_*, and the length of a segment. */
  readonly segments?: { readonly type: number; readonly size: number; readonly header: number };
}
export const SEGMENTS = { tcp4: 1, udpFragments: 3, tcp6: 4, udp: 5 } as const;
function headerOf({ checksum, segments }: Virtio): Buffer {
  const header = Buffer.alloc(10);
  header.writeUInt8(checksum ? 1 : 0, 0);
  header.writeUInt8(segments?.type ?? 0, 1);
  header.writeUInt16LE(segments?.header ?? 0, 2);
  header.writeUInt16LE(segments?.size ?? 0, 4);
  header.writeUInt16LE(checksum?.start ?? 0, 6);
  header.writeUInt16LE(checksum?.offset ?? 0, 8);
  return header;
}
export interface Seen {
  readonly at: string;
  readonly frame: Buffer;
}
/** The host: namespaces, the veths of each container on its bridge. */
export interface Host extends Disposable {
  readonly ns: Netns;
  /** Where the containers' ends of the veths are. */
  readonly far: Netns;
  readonly indexOf: (name: string) => number;
  /** What was seen in each step, at every place. */
  send(steps: readonly Step[]): Promise<readonly (readonly Seen[])[]>;
}
interface Plan {
  /** Bridges of the host, by name: MAC and addresses. */
  readonly bridges: Readonly<Record<string, { readonly mac: string; readonly addresses: readonly string[] }>>;
  /** Veths of the host, by name: the bridge that they are on, and the MAC at the far end. Without a bridge: addresses of the host. */
  readonly veths: Readonly<
    Record<string, { readonly bridge?: string; readonly mac: string; readonly addresses?: readonly string[] }>
  >;
  /** The veth that sends markers, and those that get them. */
  readonly marker: { readonly by: string; readonly at: readonly string[] };
}
/** Whether what a bridge forwards goes through iptables, too (br_netfilter). */
export function bridgeNetfilter({ ns }: Pick<Host, 'ns'>, isOn: boolean): void {
  for (const family of ['iptables', 'ip6tables'])
    ns.run('sysctl', '-qew', `net.bridge.bridge-nf-call-${family}=${isOn ? 1 : 0}`);
}

/** Runs commands of `ip` in a namespace, one a line. */
export function configure({ name }: Pick<Netns, 'name'>, lines: readonly string[]): void {
  execFileSync('ip', ['-n', name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
}

export function makeHost({ bridges, veths, marker }: Plan): Host {
  const [ns, far] = [makeNetns(), makeNetns()];
  far.run('sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1');
  ns.run('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  ns.run('sysctl', '-qw', 'net.ipv6.conf.default.accept_dad=0');
  bridgeNetfilter({ ns }, false);
  const batch: string[] = [];
  for (const [name, { mac, addresses }] of Object.entries(bridges)) {
    batch.push(`link add ${name} address ${mac} type bridge`, `link set ${name} up`);
    batch.push(...addresses.map((a) => `address add ${a} dev ${name}`));
  }
  for (const [name, { bridge, mac, addresses = [] }] of Object.entries(veths)) {
    batch.push(`link add ${name} type veth peer name ${name}-far address ${mac} netns ${far.name}`);
    if (bridge) batch.push(`link set ${name} master ${bridge}`);
    batch.push(`link set ${name} up`, ...addresses.map((a) => `address add ${a} dev ${name}`));
  }
  configure(ns, batch);
  configure(
    far,
    Object.keys(veths).map((name) => `link set ${name}-far up`),
  );
  const links = JSON.parse(ns.run('ip', '-j', 'link', 'show')) as { ifname: string; ifindex: number }[];
  const places = {
    ...Object.fromEntries(Object.keys(bridges).map((name) => [name, [ns.path, name]])),
    ...Object.fromEntries(Object.keys(veths).map((name) => [name, [far.path, `${name}-far`]])),
  };
  const head = `ffffffffffff${veths[marker.by]?.mac.replaceAll(':', '')}88b5`;
  const sender = new Sender();
  return {
    ns,
    far,
    indexOf: (name) => links.find((l) => l.ifname === name)?.ifindex ?? 0,
    send: async (steps) => {
      const ask = {
        places,
        marked: marker.at,
        by: marker.by,
        marker: head,
        steps: steps.map(({ from, frames, mark = 0, restMs = 0, virtio }) => ({
          from,
          virtio: virtio ? headerOf(virtio).toString('hex') : '',
          mark,
          restMs,
          frames: frames.map((f) => f.toString('hex')),
        })),
      };
      const answer = JSON.parse(await sender.send(JSON.stringify(ask))) as [string, string][][];
      return answer.map((seen) => seen.map(([at, hex]) => ({ at, frame: Buffer.from(hex, 'hex') })));
    },
    [Symbol.dispose]: () => {
      sender[Symbol.dispose]();
      ns[Symbol.dispose]();
      far[Symbol.dispose]();
    },
  };
}

/** One process for all that a host sends: the start of Python takes longer than the frames. It ends with its input. */
class Sender {
  readonly #child = spawn('python3', ['-c', PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  readonly #answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();

  /** One at a time. */
  async send(ask: string): Promise<string> {
    this.#child.stdin.write(`${ask}\n`);
    const { value } = await this.#answers.next();
    if (value === undefined) throw new Error('frames were not sent: see what Python has printed');
    return value;
  }
  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }
}
