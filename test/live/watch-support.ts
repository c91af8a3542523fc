/** The watch of Docker as tests open it, and what `docker inspect` says in its words. */
import { expect } from 'vitest';
import { DockerWatch } from '../../src/docker/watch.js';
import type { Logger } from '../../src/lib/log.js';
import type { ContainerFacts, DockerView } from '../../src/policy/container.js';
import type { Lab } from '../lab/lab.js';

export const warnings: string[] = [];
export const log: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (o, msg) => void warnings.push(`${msg}: ${'err' in o ? String(o.err) : JSON.stringify(o)}`),
  error: (o, msg) => void warnings.push(`${msg}: ${JSON.stringify(o)}`),
};
/** What the tests have opened; `closeAll` closes it. */
export const open: AsyncDisposable[] = [];
export const closeAll = async (): Promise<void> => {
  await Promise.all(open.splice(0).map((o) => o[Symbol.asyncDispose]()));
};
export async function watching(socket: string, resyncMs = 30_000): Promise<DockerWatch> {
  const w = new DockerWatch({ socket, log, now: () => performance.now(), resyncMs });
  open.push(w);
  w.start();
  await until(w, 'connection', (v) => v.connected);
  return w;
}
/** Resolves when the view fits; at once when it does already. */
export function until(
  w: DockerWatch,
  what: string,
  fits: (v: DockerView) => boolean,
  ms = 20_000,
): Promise<DockerView> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => end(new Error(`${what}: not seen within ${ms} ms`)), ms);
    const subscription = w.onChange((v) => fits(v) && end());
    const end = (error?: Error): void => {
      clearTimeout(timer);
      subscription[Symbol.dispose]();
      if (error) reject(error);
      else resolve(w.view());
    };
    if (fits(w.view())) end();
  });
}
export const named = (v: DockerView, name: string): ContainerFacts | undefined =>
  [...v.containers.values()].find((c) => c.name === name);
export const complete = (name: string) => (v: DockerView) => {
  const c = named(v, name);
  return (
    c?.state === 'running' && c.privileges !== undefined && c.privileges.pid > 0 && !v.starting.has(c.id)
  );
};

interface Inspect {
  readonly NetworkID: string;
  readonly MacAddress: string;
  readonly IPAddress: string;
  readonly GlobalIPv6Address: string;
  readonly DNSNames: readonly string[] | null;
}
/** What docker inspect says, in the view's words. */
async function truth(lab: Lab, name: string): Promise<unknown> {
  const json = await lab.docker('inspect', '-f', '{{json .NetworkSettings.Networks}}', name);
  const networks = Object.values(JSON.parse(json) as Record<string, Inspect>).filter(
    (n) => n.MacAddress !== '',
  );
  return networks.map((n) => ({
    networkId: n.NetworkID,
    mac: n.MacAddress,
    ip4: n.IPAddress || undefined,
    ip6: n.GlobalIPv6Address || undefined,
    dnsNames: n.DNSNames ?? [],
  }));
}
export async function expectTruth(lab: Lab, w: DockerWatch, name: string): Promise<void> {
  const endpoints = named(w.view(), name)?.endpoints ?? [];
  const shown = endpoints.map(({ networkId, mac, ip4, ip6, dnsNames }) => ({
    networkId,
    mac,
    ip4,
    ip6,
    dnsNames,
  }));
  expect(shown).toHaveLength(((await truth(lab, name)) as unknown[]).length);
  expect(shown).toEqual(expect.arrayContaining((await truth(lab, name)) as unknown[]));
}
