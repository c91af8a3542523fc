import { execFileSync } from 'node:child_process';

let made = 0;
export interface Namespace extends Disposable {
  readonly name: string;
  readonly path: string;
  /** Runs a command inside. */
  run(command: string, ...args: readonly string[]): string;
  /** The same with standard input. */
  feed(input: string, command: string, ...args: readonly string[]): string;
}

/** A throw-away network namespace with lo up; removed when disposed. */
export function makeNamespace(label: string): Namespace {
  const name = `dbnl-${process.pid}-${made++}-${label}`;
  const path = `/run/netns/${name}`;
  execFileSync('ip', ['netns', 'add', name]);
  const feed = (input: string, command: string, ...args: readonly string[]): string =>
    execFileSync('nsenter', [`--net=${path}`, command, ...args], { encoding: 'utf8', input, stdio: 'pipe' });
  const run = (command: string, ...args: readonly string[]): string => feed('', command, ...args);
  run('ip', 'link', 'set', 'lo', 'up');
  return {
    name,
    path,
    run,
    feed,
    [Symbol.dispose]: () => {
      execFileSync('ip', ['netns', 'del', name]);
    },
  };
}

const macOf = (host: string): string => `02:db:00:00:01:0${host}`;
/** Joins two namespaces by veth "to-b" (192.0.2.1, 2001:db8::1) and "to-a" (192.0.2.2, 2001:db8::2). */
export function join(a: Namespace, b: Namespace): void {
  const peer = ['peer', 'name', 'to-a', 'address', macOf('2'), 'netns', b.name];
  a.run('ip', 'link', 'add', 'to-b', 'address', macOf('1'), 'type', 'veth', ...peer);
  for (const [ns, dev, host, other] of [
    [a, 'to-b', '1', '2'],
    [b, 'to-a', '2', '1'],
  ] as const) {
    ns.run('ip', 'addr', 'add', `192.0.2.${host}/24`, 'dev', dev);
    ns.run('ip', 'addr', 'add', `2001:db8::${host}/64`, 'dev', dev, 'nodad');
    ns.run('ip', 'link', 'set', dev, 'up');
    // the first solicitation on a new link is lost, and repeated a second later
    ns.run(
      'ip',
      'neigh',
      'add',
      `2001:db8::${other}`,
      'lladdr',
      macOf(other),
      'dev',
      dev,
      'nud',
      'permanent',
    );
  }
}

/** Waits until `look` returns something; fails after 5 s. */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const end = Date.now() + 5000;
  while (Date.now() < end) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    await new Promise((resume) => setTimeout(resume, 5));
  }
  throw new Error(`waited 5 s in vain for ${what}`);
}
