/** A client of Encrypted Client Hello (Go): a name that only the server can read passes where its entry permits that, and nowhere else. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { type Result, run, startDaemon, tail, waitFor } from '../lab/process.js';

const OUTER = 'outer.example';
const INNER = 'inner.example';
const ADDRESS = '93.184.61.1';
const PORT = 4440;
/** The lab's own servers have port 443 of all addresses. */
const REDIRECT = ['-t', 'nat', '-I', 'PREROUTING', '-p', 'tcp', '-d', ADDRESS, '--dport', '443'];
const GO = ['/usr/lib/go-1.24/bin/go', '/usr/bin/go'].find((path) => existsSync(path));

let lab: Lab;
let drawbridge: Drawbridge;
let folder: string;
let held: Container;
let hiding: Container;
let free: Container;

/** Without optimization, which takes half the time. */
async function build(program: string): Promise<void> {
  const source = join(import.meta.dirname, '..', 'fixtures', 'ech', 'main.go');
  const env = {
    ...{ PATH: process.env.PATH, HOME: folder, GOCACHE: join(folder, 'cache'), GOPATH: join(folder, 'path') },
    ...{ GOENV: 'off', GOTOOLCHAIN: 'local', GOPROXY: 'off', CGO_ENABLED: '0', GOFLAGS: '-mod=mod' },
  };
  const flags = ['-gcflags=all=-N -l', '-ldflags=-s -w'];
  await run([GO ?? 'go', 'build', ...flags, '-o', program, source], { check: true, env });
}

interface Seen {
  readonly from: number;
  /** Delivered to the server. */
  readonly bytes: number;
  readonly name: string;
  readonly inner: boolean;
}
/** The connections that the server has seen the end of. */
const seen = (): Seen[] =>
  readFileSync(join(folder, 'server.log'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Seen);

/** `keys`: a file of the folder. */
const get = (c: Container, name: string, ...keys: readonly string[]): Promise<Result> =>
  c.exec(['/ech/ech', 'get', '/ech', `${ADDRESS}:443`, name, ...keys], { check: false });
/** What the server has seen of the connections that `work` has made: those that were reset, too. */
async function during<T>(work: () => Promise<T>, connections: number): Promise<{ result: T; seen: Seen[] }> {
  const before = seen().length;
  const result = await work();
  await waitFor('the server to see the connections', () => seen().length >= before + connections);
  return { result, seen: seen().slice(before) };
}

describe.skipIf(GO === undefined)(
  `encrypted hellos${GO === undefined ? ': Go is not installed' : ''}`,
  () => {
    beforeAll(async () => {
      lab = await Lab.up({ sniffer: false });
      folder = join(lab.dir, 'ech');
      mkdirSync(folder);
      drawbridge = lab.drawbridge({});
      await Promise.all([
        build(join(folder, 'ech')),
        lab.inNet(['iptables', ...REDIRECT, '-j', 'REDIRECT', '--to-ports', String(PORT)], { check: true }),
        drawbridge.ready(),
      ]);
      const log = join(folder, 'server.log');
      const server = [join(folder, 'ech'), 'serve', String(PORT), folder, OUTER, INNER];
      startDaemon(['nsenter', `--net=${lab.netNetns}`, '--', ...server], log);
      await waitFor('the server to listen', () => readFileSync(log, 'utf8').includes('listening')).catch(
        (e: Error) => {
          throw new Error(`${e.message}: ${tail(log)}`);
        },
      );
      const ech = readFileSync(join(folder, 'published'), 'utf8');
      await lab.dns.set({
        [OUTER]: { A: [ADDRESS], HTTPS: [{ priority: 1, target: '.', ech }] },
        [INNER]: { A: [ADDRESS], HTTPS: [{ priority: 1, target: '.', ech }] },
      });
      const start = (labels: Record<string, string>): Promise<Container> =>
        lab.start({ node: false, labels, mounts: [`${folder}:/ech:ro`] });
      [held, hiding, free] = await Promise.all([
        start({ 'drawbridge.allow': OUTER }),
        start({ 'drawbridge.allow': `${OUTER} ech=allow` }),
        start({ 'drawbridge.mode': 'off' }),
      ]);
      for (const c of [held, hiding]) await c.exec(['nslookup', OUTER]);
    });
    afterAll(() => lab?.down());

    it('with a permitted name outside and another one within are refused, and no byte is delivered', async () => {
      const { result, seen: arrived } = await during(() => get(held, INNER, 'published'), 1);
      expect(result).toMatchObject({ code: 1, stderr: expect.stringContaining('connection reset by peer') });
      expect(arrived).toEqual([expect.objectContaining({ bytes: 0, name: '', inner: false })]);
      const { body } = await drawbridge.get('/v1/flows?verdict=deny&limit=10');
      expect(JSON.parse(body).items).toContainEqual(
        expect.objectContaining({ name: OUTER, port: 443, reason: expect.stringMatching(/^ech: /) }),
      );
    });
    it('reach the server where nothing is enforced', async () => {
      const { result, seen: arrived } = await during(() => get(free, INNER, 'published'), 1);
      expect(result).toMatchObject({ code: 0, stdout: `the content of ${INNER}, encrypted: true\n` });
      expect(arrived).toEqual([expect.objectContaining({ name: INNER, inner: true })]);
    });
    it('pass with ech=allow', async () => {
      const { result, seen: arrived } = await during(() => get(hiding, INNER, 'published'), 1);
      expect(result).toMatchObject({ code: 0, stdout: `the content of ${INNER}, encrypted: true\n` });
      expect(arrived).toEqual([expect.objectContaining({ name: INNER, inner: true })]);
    });
    it('are not asked of a client: without keys it reaches the permitted name, and no other one', async () => {
      const permitted = await get(held, OUTER);
      expect(permitted).toMatchObject({ code: 0, stdout: `the content of ${OUTER}, encrypted: false\n` });
      const { result, seen: arrived } = await during(() => get(held, INNER), 1);
      expect(result.code).toBe(1);
      expect(arrived.at(-1)).toMatchObject({ bytes: 0, inner: false });
    });

    describe('for a key that the server has no longer', () => {
      it('end with the permitted name, and the keys that the server sends then open no other one', async () => {
        const { result, seen: arrived } = await during(() => get(held, INNER, 'former', 'retry'), 2);
        expect(result.stdout).toMatch(/^rejected, with [1-9]\d* bytes of keys\n$/);
        expect(result).toMatchObject({
          code: 1,
          stderr: expect.stringContaining('connection reset by peer'),
        });
        expect(arrived.toSorted((a, b) => b.bytes - a.bytes)).toEqual([
          expect.objectContaining({ name: OUTER, inner: false }),
          expect.objectContaining({ bytes: 0, name: '', inner: false }),
        ]);
      });
      it('begin again with those keys where nothing is enforced', async () => {
        const { result, seen: arrived } = await during(() => get(free, INNER, 'former', 'retry'), 2);
        expect(result.stdout).toMatch(
          new RegExp(`^rejected, .*\nthe content of ${INNER}, encrypted: true\n$`),
        );
        expect(arrived.some((s) => s.inner)).toBe(true);
      });
    });

    it('the server has seen the other name of the container without a policy and of the one with ech=allow only', () => {
      expect(seen().filter((s) => s.name === INNER)).toHaveLength(3);
    });
  },
);
