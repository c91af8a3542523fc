import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import type { FastifyInstance } from 'fastify';

/** The API cannot listen where the configuration says; the message says why and what to do. */
class ListenError extends Error {}

/**
 * Listens where `api.listen` says: "unix:/path", root's group may use it (0660). A socket that nobody answers on is
 * replaced, a live one is not. TCP needs bearer tokens, which this version does not check: it does not start.
 */
export async function listen(server: FastifyInstance, address: string, tokens: number): Promise<void> {
  if (!address.startsWith('unix:')) throw new ListenError(tcpRefusal(address, tokens));
  const path = address.slice('unix:'.length);
  await mkdir(dirname(path), { recursive: true, mode: 0o750 });
  await removeStale(path);
  await server.listen({ path });
  await chmod(path, 0o660);
}

function tcpRefusal(address: string, tokens: number): string {
  const why =
    tokens === 0
      ? 'is a TCP listener without tokens: whoever reaches it would rule the firewall'
      : 'is a TCP listener, and this version does not check bearer tokens yet';
  return `api.listen: ${address} ${why}. Set api.listen to unix:/run/drawbridge/api.sock`;
}

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return undefined;
    throw e;
  });
  if (!found) return;
  if (!found.isSocket())
    throw new ListenError(`api.listen: ${path} exists and is no socket. Move it away, or set another path`);
  if (await isAlive(path)) {
    throw new ListenError(
      `api.listen: another process answers on ${path}. Stop it (drawbridge teardown), or set another path`,
    );
  }
  await unlink(path);
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on('connect', () => resolve(true));
    socket.on('error', (e: NodeJS.ErrnoException) =>
      resolve(e.code !== 'ECONNREFUSED' && e.code !== 'ENOENT'),
    );
    socket.on('close', () => socket.destroy());
    socket.on('connect', () => socket.end());
  });
}
