import { spawnSync } from 'node:child_process';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bundled } from '../bundle.js';
import { makeNamespace, type Namespace } from './lab.js';

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('process');
});
afterAll(() => {
  ns[Symbol.dispose]();
});

/** Runs a program in a process of its own, with `path` naming the namespace. */
async function run(text: string): Promise<{ readonly status: number | null; readonly output: string }> {
  const file = await bundled({ text: `const path = ${JSON.stringify(ns.path)};${text}` });
  const { status, stdout, stderr } = spawnSync(process.execPath, [file], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  return { status, output: stdout + stderr };
}

test('with no way back to its namespace the process ends at once', async () => {
  const { status, output } = await run(`
    import { closeSync, readdirSync, readlinkSync } from 'node:fs';
    import { withNamespace } from '../../src/kernel/netlink/namespace.js';
    const own = readlinkSync('/proc/thread-self/ns/net');
    const pointsHome = (fd) => { try { return readlinkSync('/proc/self/fd/' + fd) === own; } catch { return false; } };
    withNamespace(path, () => { for (const fd of readdirSync('/proc/self/fd')) if (pointsHome(fd)) closeSync(Number(fd)); });
    console.log('still alive');
  `);
  expect(output).toContain('fatal: cannot return to the own network namespace');
  expect(output).not.toContain('still alive');
  expect(status).toBe(70);
});

test('a listener that throws ends the process as any uncaught error does', async () => {
  const { status, output } = await run(`
    import { RouteMonitor } from '../../src/kernel/host-links.js';
    import { Addresses } from '../../src/kernel/netlink/addresses.js';
    new RouteMonitor({ onOverrun: () => {}, onAddress: () => { throw new Error('from the listener'); } }, { namespace: path });
    new Addresses({ namespace: path }).add('lo', '203.0.113.9/32');
    setTimeout(() => console.log('still alive'), 10_000);
  `);
  expect(output).toContain('from the listener');
  expect(output).not.toContain('still alive');
  expect(status).toBe(1);
});

test('in the service, a message that a listener cannot handle counts as lost, and the next ones are delivered', async () => {
  const { status, output } = await run(`
    import { RouteMonitor } from '../../src/kernel/host-links.js';
    import { Addresses } from '../../src/kernel/netlink/addresses.js';
    import { logContained } from '../../src/lib/faults.js';
    logContained({ error: ({ err }, message) => console.log(message + ': ' + err.message) });
    const end = setTimeout(() => process.exit(3), 10_000);
    const addresses = new Addresses({ namespace: path });
    let seen = 0;
    const onAddress = () => {
      seen += 1;
      if (seen === 1) throw new Error('from the listener');
      console.log('the next one');
      clearTimeout(end);
    };
    const onOverrun = () => {
      console.log('lost');
      addresses.add('lo', '203.0.113.11/32');
    };
    new RouteMonitor({ onOverrun, onAddress }, { namespace: path });
    addresses.add('lo', '203.0.113.10/32');
  `);
  expect(output).toMatch(/from the listener\nlost\nthe next one\n/);
  expect(status).toBe(0);
});

test('an open listener alone does not keep the process', async () => {
  const { status, output } = await run(`
    import { RouteMonitor } from '../../src/kernel/host-links.js';
    new RouteMonitor({ onOverrun: () => {} }, { namespace: path });
    console.log('done');
  `);
  expect({ status, output }).toEqual({ status: 0, output: 'done\n' });
});
