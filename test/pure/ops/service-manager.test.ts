import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import {
  bindSocket,
  closeDescriptor,
  openSocket,
  receiveDatagram,
  sendToUnix,
  unixAddress,
} from '../../../src/kernel/netlink/libc.js';
import { serviceManager } from '../../../src/ops/service-manager.js';

let dir: string;
let fd: number;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drawbridge-notify-'));
  fd = openSocket(1, 2, 0);
});
afterEach(() => {
  closeDescriptor(fd);
  rmSync(dir, { recursive: true });
});
const received = (): string => {
  const into = Buffer.alloc(4096);
  const length = receiveDatagram(fd, into);
  return length < 0 ? `errno ${-length}` : into.toString('utf8', 0, length);
};

it('sends what it is given as one datagram, to a path and to an abstract name', () => {
  const abstract = `@drawbridge-test-${process.pid}`;
  for (const path of [join(dir, 'notify'), abstract]) {
    closeDescriptor(fd);
    fd = openSocket(1, 2, 0);
    bindSocket(fd, unixAddress(path), path);
    serviceManager({ NOTIFY_SOCKET: path }, 1).notify('READY=1\nSTATUS=ä');
    expect(received()).toBe('READY=1\nSTATUS=ä');
  }
});

it('the watchdog counts for this process only, and programs that are run see none of it', () => {
  const env = { NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '30000000', WATCHDOG_PID: '7', PATH: '/bin' };
  expect(serviceManager({ ...env }, 8).watchdogMs).toBeUndefined();
  expect(serviceManager({ ...env, WATCHDOG_USEC: 'x' }, 7).watchdogMs).toBeUndefined();
  expect(serviceManager(env, 7).watchdogMs).toBe(30_000);
  expect(env).toEqual({ PATH: '/bin' });
});

it('a socket that is not there, or a path that cannot be, throws', () => {
  expect(() => sendToUnix(join(dir, 'none'), 'READY=1')).toThrow('ENOENT');
  expect(() => sendToUnix('', 'READY=1')).toThrow(RangeError);
  expect(() => sendToUnix('x'.repeat(108), 'READY=1')).toThrow(RangeError);
});
