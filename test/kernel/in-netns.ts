import { execFileSync } from 'node:child_process';
import { type Exec, exec } from '../../src/kernel/exec.js';

/** A throw-away network namespace and an Exec that runs everything inside it. */
export interface Netns extends Disposable {
  readonly name: string;
  readonly path: string;
  readonly exec: Exec;
  run(file: string, ...args: string[]): string;
}
let count = 0;

export function makeNetns(): Netns {
  const name = `dbt-${process.pid}-${count++}`;
  execFileSync('ip', ['netns', 'add', name]);
  const path = `/run/netns/${name}`;
  const enter = [`--net=${path}`, '--'];
  return {
    name,
    path,
    exec: (file, args, options) => exec('nsenter', [...enter, file, ...args], options),
    run: (file, ...args) => execFileSync('nsenter', [...enter, file, ...args], { encoding: 'utf8' }),
    [Symbol.dispose]: () => void execFileSync('ip', ['netns', 'del', name]),
  };
}

/** Python: datagrams from any address. IPV6_FREEBIND needs no capability, IP_TRANSPARENT does. Arguments: a port, and pairs of source and target. */
export const FROM_ANYWHERE = `
import socket, sys
port, ends = sys.argv[1], sys.argv[2:]
for source, target in zip(ends[::2], ends[1::2]):
    is4 = ':' not in source
    s = socket.socket(socket.AF_INET if is4 else socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(*((0, 19, 1) if is4 else (41, 78, 1)))
    s.bind((source, 0))
    try: s.sendto(b'from elsewhere', (target, int(port)))
    except PermissionError: pass
`;

/** Counts packets that leave a namespace, by name of what they match. The function returns those since its last call. */
export function countLeaving(
  { run }: Netns,
  counted: Readonly<Record<string, string>>,
): () => Readonly<Record<string, number>> {
  const rules = Object.entries(counted).map(([name, match]) => `${match} counter comment "${name}";`);
  run(
    'nft',
    `table inet counted { chain after { type filter hook postrouting priority 300; ${rules.join(' ')} }; }`,
  );
  interface Listed {
    readonly nftables: readonly {
      readonly rule?: {
        readonly comment: string;
        readonly expr: readonly { counter?: { packets: number } }[];
      };
    }[];
  }
  return () => {
    const { nftables } = JSON.parse(run('nft', '-j', 'list', 'chain', 'inet', 'counted', 'after')) as Listed;
    run('nft', 'reset', 'rules', 'chain', 'inet', 'counted', 'after');
    const counts = nftables.flatMap(({ rule }) =>
      rule ? [[rule.comment, rule.expr.find((e) => e.counter)?.counter?.packets ?? 0] as const] : [],
    );
    return Object.fromEntries(counts.filter(([, packets]) => packets > 0));
  };
}
