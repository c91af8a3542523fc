import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { DnsService } from '../dns/dns-service.js';
import { type NameEvent, NamesPolicy } from '../dns/names-policy.js';
import type { DockerWatch } from '../docker/watch.js';
import type { Kernel } from '../kernel/kernel.js';
import type { SetWriter } from '../kernel/netlink/ipset.js';
import type { Logger } from '../lib/log.js';
import { nat64Ranges } from '../lib/special-use.js';
import type { ThreatLook } from '../policy/threat.js';

export interface NamesOptions {
  readonly config: Config;
  /** Of the kernel's own names. */
  readonly prefix: string;
  readonly kernel: Kernel;
  readonly sets: SetWriter;
  readonly docker: DockerWatch;
  readonly log: Logger;
  readonly threats: ThreatLook;
  readonly onEvent: (event: NameEvent) => void;
}
export interface Names {
  readonly policy: NamesPolicy;
  readonly dns: DnsService;
}

/** The DNS server, who may ask it what, and where its ledger is kept. */
export function makeNames(o: NamesOptions): Names {
  const policy = new NamesPolicy({
    prefix: o.prefix,
    kernel: o.kernel,
    threats: o.threats,
    nat64: nat64Ranges(o.config.networks.nat64),
    docker: o.docker,
  });
  const { dns, state } = o.config;
  mkdirSync(state, { recursive: true, mode: 0o700 });
  const service = new DnsService({
    config: {
      upstreams: dns.upstreams,
      zones: dns.zones,
      minTtl: dns.minTtlMs / 1000,
      maxTtl: dns.maxTtlMs / 1000,
      grace: dns.graceMs / 1000,
    },
    policy,
    sets: o.sets,
    original: o.kernel.flows,
    log: o.log,
    journal: join(state, 'names.journal'),
    onEvent: o.onEvent,
  });
  return { policy, dns: service };
}
