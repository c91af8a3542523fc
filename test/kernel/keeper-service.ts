/**
 * Child of the keeper test: has a UDP socket, prints what arrives there, and ends as the signal has it. Its argument is JSON: the state folder,
 * `failure`, `markMask`, the port, and the file with what it begins with again at SIGHUP.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { endKeeper, findKeeper, Keeper, type KeeperOptions } from '../../src/kernel/keeper.js';
import { keptSockets } from '../../src/kernel/netlink/kept-sockets.js';
import { closeDescriptor, receiveDatagram } from '../../src/kernel/netlink/libc.js';
import { udpSocketFd } from '../../src/kernel/netlink/namespace.js';

/** What a start begins with. */
interface Beginning {
  readonly state: string;
  readonly markMask: number;
}
export interface Given extends Beginning {
  readonly failure: string;
  readonly port: number;
  /** A file with a `Beginning`. */
  readonly next: string;
}
const given = JSON.parse(process.argv[2] ?? '') as Given;
const log: KeeperOptions['log'] = {
  warn: (fields, text) => console.log(`warned: ${text}${JSON.stringify(fields)}`),
  debug: () => undefined,
};

async function begin({ state, markMask }: Beginning): Promise<() => Promise<void>> {
  const kernel = { prefix: 'DB', markMask };
  const config = { state, failure: given.failure, kernel } as unknown as KeeperOptions['config'];
  await findKeeper(config, log);
  writeFileSync(`${state}/lock.new`, '');
  renameSync(`${state}/lock.new`, `${state}/lock`);
  const keeper = new Keeper({ config, log });
  const [kept] = keptSockets.take('udp')?.fds ?? [];
  const fd = kept ?? udpSocketFd({ family: 4, address: '127.0.0.1', port: given.port });
  keptSockets.keep('udp', '', [fd]);
  const into = Buffer.alloc(100);
  const reading = setInterval(() => {
    const length = receiveDatagram(fd, into);
    if (length > 0) console.log(into.toString('latin1', 0, length));
  }, 10);
  console.log(kept === undefined ? 'opened' : 'taken over');
  return async () => {
    clearInterval(reading);
    await keeper[Symbol.asyncDispose]();
    closeDescriptor(fd);
  };
}

let end = await begin(given);
process.on('SIGTERM', async () => {
  keptSockets.seal();
  await end();
  process.exit();
});
process.on('SIGINT', async () => {
  await end();
  process.exit();
});
process.on('SIGHUP', async () => {
  keptSockets.seal();
  await end();
  console.log('between');
  end = await begin(JSON.parse(readFileSync(given.next, 'utf8')) as Beginning);
});
process.on('SIGUSR2', async () => {
  keptSockets.end();
  await endKeeper(given.state);
  console.log('torn down');
});
