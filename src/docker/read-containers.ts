/**
 * Docker Engine API JSON → facts. Pure; no shape is trusted: what is malformed becomes a closed default and a line in
 * `notes`, never an exception. Shapes: Docker Engine API v1.41–v1.52 (docs.docker.com/reference/api/engine).
 */

import {
  asRecord,
  countAt,
  type Fields,
  flagAt,
  listAt,
  recordAt,
  textAt,
  textMap,
  textsAt,
} from '../lib/json.js';
import type {
  ContainerFacts,
  ContainerPractices,
  Endpoint,
  ListedMount,
  PublishedPort,
} from '../policy/container.js';
import { canonicalIp, canonicalMac, isFullId, labelsOf, type Notes } from './docker-values.js';

/** The facts that `scan` checks, from `GET /containers/ID/json`. */

/** The facts in a container's item of `GET /containers/json`. */
export interface Listed {
  readonly id: string;
  /** Undefined while Docker renames it: the list then returns the former name and the new one, in no order. */
  readonly name: string | undefined;
  readonly image: string;
  readonly imageId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: ContainerFacts['state'];
  readonly networkMode: string;
  /** `dnsNames` are empty here: only container inspect returns them. */
  readonly endpoints: readonly Endpoint[];
  readonly published: readonly PublishedPort[];
}
/** The facts that `GET /containers/ID/json` adds. */
export interface Inspected {
  readonly id: string;
  /** Docker answers an inspect when a rename has ended (moby daemon/rename.go locks the container). */
  readonly name: string;
  readonly running: boolean;
  readonly privileges: NonNullable<ContainerFacts['privileges']>;
  readonly practices: ContainerPractices;
  readonly published: readonly PublishedPort[];
  /** DNS names by network id. */
  readonly dnsNames: ReadonlyMap<string, readonly string[]>;
}

/** `restarting` waits between two runs: it has no network until its next `network:connect`. */
function stateOf(text: string): ContainerFacts['state'] {
  return text === 'created' || text === 'running' || text === 'paused' ? text : 'exited';
}

/** Docker's names start with a slash; legacy links add names with two, which are no name of this container. */
function nameOf(names: readonly string[], id: string): string | undefined {
  const own = names.map((n) => n.replace(/^\//, '')).filter((n) => n !== '' && !n.includes('/'));
  return own.length > 1 ? undefined : (own[0] ?? id.slice(0, 12));
}

/** One `EndpointSettings`. Host, none and stopped endpoints have no id of their network or no address: undefined. */
function endpointOf(value: unknown): Endpoint | undefined {
  const settings = asRecord(value);
  const networkId = textAt(settings, 'NetworkID');
  const ip4 = canonicalIp(textAt(settings, 'IPAddress'));
  const ip6 = canonicalIp(textAt(settings, 'GlobalIPv6Address'));
  const mac = canonicalMac(textAt(settings, 'MacAddress')) ?? '';
  if (!networkId || (!ip4 && !ip6 && !mac)) return undefined;
  return { networkId, mac, ...(ip4 && { ip4 }), ...(ip6 && { ip6 }), dnsNames: [] };
}

function protoOf(text: string): PublishedPort['proto'] | undefined {
  return text === 'tcp' || text === 'udp' || text === 'sctp' ? text : undefined;
}

type HostPort = NonNullable<PublishedPort['hosts']>[number];

/** One item a container port, with every host port that leads to it. */
function uniquePorts(ports: readonly PublishedPort[]): readonly PublishedPort[] {
  const byKey = new Map<string, { port: PublishedPort; hosts: Map<string, HostPort> }>();
  for (const port of ports) {
    const key = `${port.containerPort}/${port.proto}`;
    const known = byKey.get(key) ?? { port, hosts: new Map() };
    for (const h of port.hosts ?? []) known.hosts.set(`${h.address} ${h.port}`, h);
    byKey.set(key, known);
  }
  return [...byKey.values()].map(({ port: { proto, containerPort }, hosts }) => ({
    proto,
    containerPort,
    ...(hosts.size > 0 ? { hosts: [...hosts.values()] } : {}),
  }));
}

const isPort = (port: number): boolean => port >= 1 && port <= 65_535;

function validPort(
  proto: PublishedPort['proto'] | undefined,
  port: number,
  hosts: readonly HostPort[],
): readonly PublishedPort[] {
  const valid = hosts.filter((h) => isPort(h.port));
  return proto && isPort(port)
    ? [{ proto, containerPort: port, ...(valid.length > 0 ? { hosts: valid } : {}) }]
    : [];
}

function listedPorts(values: readonly unknown[]): readonly PublishedPort[] {
  const ports = values.flatMap((value) => {
    const port = asRecord(value);
    // Without PublicPort it is only exposed, not published.
    const host = { address: textAt(port, 'IP'), port: countAt(port, 'PublicPort') };
    return host.port > 0
      ? validPort(protoOf(textAt(port, 'Type')), countAt(port, 'PrivatePort'), [host])
      : [];
  });
  return uniquePorts(ports);
}

/** Keys such as `80/tcp`; a key with no bindings is only exposed. */
function boundPorts(map: Fields): readonly PublishedPort[] {
  return Object.keys(map).flatMap((key) => {
    const [port = '', proto = 'tcp'] = key.split('/');
    const bindings = listAt(map, key);
    return bindings.length > 0 && /^\d{1,5}$/.test(port)
      ? validPort(protoOf(proto), Number(port), bindings.flatMap(hostPorts))
      : [];
  });
}

/** A host port, or a range of which Docker takes one; empty for any free one, which is then in NetworkSettings. */
function hostPorts(binding: unknown): readonly HostPort[] {
  const host = asRecord(binding);
  const [, first, last] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(textAt(host, 'HostPort')) ?? [];
  return first === undefined || last !== undefined
    ? []
    : [{ address: textAt(host, 'HostIp'), port: Number(first) }];
}

function listed(value: unknown, notes: Notes): Listed | undefined {
  const item = asRecord(value);
  const id = textAt(item, 'Id');
  if (!item || !isFullId(id)) {
    notes.push('container list: an item without a full id was left out');
    return undefined;
  }
  const networks = Object.values(recordAt(recordAt(item, 'NetworkSettings'), 'Networks'));
  return {
    id,
    name: nameOf(textsAt(item, 'Names'), id),
    image: textAt(item, 'Image'),
    imageId: textAt(item, 'ImageID'),
    labels: labelsOf(item.Labels, `container ${id.slice(0, 12)}`, notes),
    state: stateOf(textAt(item, 'State')),
    networkMode: textAt(recordAt(item, 'HostConfig'), 'NetworkMode'),
    endpoints: networks.map(endpointOf).filter((e) => e !== undefined),
    published: listedPorts(listAt(item, 'Ports')),
  };
}

/** Undefined when the answer is no list at all: then nothing is known, which is not "no containers". */
export function readContainers(json: unknown, notes: Notes): readonly Listed[] | undefined {
  if (!Array.isArray(json)) return undefined;
  return json.map((item) => listed(item, notes)).filter((c) => c !== undefined);
}

/** Engines before 25 (API 1.44) have no DNSNames: there they are the name, the aliases and the short id. */
function dnsNamesOf(settings: Fields, name: string): readonly string[] {
  if ('DNSNames' in settings) return textsAt(settings, 'DNSNames');
  const aliases = textsAt(settings, 'Aliases');
  return aliases.length > 0 ? [...new Set([name, ...aliases])] : [];
}

function dnsNamesByNetwork(networks: Fields, name: string): ReadonlyMap<string, readonly string[]> {
  const out = new Map<string, readonly string[]>();
  for (const value of Object.values(networks)) {
    const settings = asRecord(value);
    const id = textAt(settings, 'NetworkID');
    if (settings && id) out.set(id, dnsNamesOf(settings, name));
  }
  return out;
}

/** `source:destination[:mode]`, from HostConfig.Binds and from Mounts of type bind (`--mount` shows only there). */
function bindsOf(item: Fields, host: Fields): readonly string[] {
  const mounts = listAt(item, 'Mounts')
    .map(asRecord)
    .filter((m) => textAt(m, 'Type') === 'bind')
    .map((m) => `${textAt(m, 'Source')}:${textAt(m, 'Destination')}${flagAt(m, 'RW') ? '' : ':ro'}`);
  return [...new Set([...textsAt(host, 'Binds'), ...mounts])];
}

function mountsOf(item: Fields): readonly ListedMount[] {
  return listAt(item, 'Mounts')
    .map(asRecord)
    .map((m) => ({
      type: textAt(m, 'Type'),
      name: textAt(m, 'Name'),
      source: textAt(m, 'Source'),
      destination: textAt(m, 'Destination'),
      isReadOnly: !flagAt(m, 'RW'),
    }))
    .filter((m) => m.destination.startsWith('/'));
}

/** Both lists are empty, as requested. A privileged container has none either, which coverage reports in any case. */
const hasOpenSystemPaths = (host: Fields): boolean =>
  ['MaskedPaths', 'ReadonlyPaths'].every((key) => Array.isArray(host[key]) && listAt(host, key).length === 0);

/** The client replaces the file of a seccomp profile by its text. Former versions of Docker write a colon instead of "=". */
function securityOption(option: string): string {
  const [, name = option, value = 'true'] = /^([^=:]+)(?:[=:]([\s\S]*))?$/.exec(option) ?? [];
  const isProfile = name === 'seccomp' && !/^(?:unconfined|builtin)$/.test(value);
  return isProfile ? 'seccomp=profile' : `${name}=${value}`;
}

function requestedDevices(request: Fields | undefined): readonly string[] {
  const driver = textAt(request, 'Driver');
  if (driver === 'cdi') return textsAt(request, 'DeviceIDs');
  const capabilities = listAt(request, 'Capabilities').flat();
  return [driver || capabilities.filter((c) => typeof c === 'string').join(' ') || 'unknown'];
}

const capability = (name: string): string => name.toUpperCase().replace(/^CAP_/, '');

function privilegesOf(item: Fields): Inspected['privileges'] {
  const host = recordAt(item, 'HostConfig');
  const devices = listAt(host, 'Devices').map((d) => textAt(asRecord(d), 'PathOnHost'));
  return {
    privileged: flagAt(host, 'Privileged'),
    capAdd: textsAt(host, 'CapAdd').map(capability),
    capDrop: textsAt(host, 'CapDrop').map(capability),
    pidMode: textAt(host, 'PidMode'),
    binds: bindsOf(item, host),
    mounts: mountsOf(item),
    devices: devices.filter((d) => d !== ''),
    deviceRules: textsAt(host, 'DeviceCgroupRules'),
    securityOpt: textsAt(host, 'SecurityOpt').map(securityOption),
    runtime: textAt(host, 'Runtime'),
    deviceRequests: listAt(host, 'DeviceRequests').map(asRecord).flatMap(requestedDevices),
    hasOpenSystemPaths: hasOpenSystemPaths(host),
    dns: textsAt(host, 'Dns'),
    pid: countAt(recordAt(item, 'State'), 'Pid'),
    sandboxKey: textAt(recordAt(item, 'NetworkSettings'), 'SandboxKey'),
    cgroupParent: textAt(host, 'CgroupParent'),
  };
}

export function readInspect(json: unknown): Inspected | undefined {
  const item = asRecord(json);
  const id = textAt(item, 'Id');
  if (!item || !isFullId(id)) return undefined;
  const name = textAt(item, 'Name').replace(/^\//, '') || id.slice(0, 12);
  const settings = recordAt(item, 'NetworkSettings');
  const bound = [
    ...boundPorts(recordAt(recordAt(item, 'HostConfig'), 'PortBindings')),
    ...boundPorts(recordAt(settings, 'Ports')),
  ];
  return {
    id,
    name,
    running: flagAt(recordAt(item, 'State'), 'Running'),
    privileges: privilegesOf(item),
    practices: practicesOf(item),
    published: uniquePorts(bound),
    dnsNames: dnsNamesByNetwork(recordAt(settings, 'Networks'), name),
  };
}

/** `Config.Labels` of `GET /images/ID/json`; undefined when they cannot be read. */
export function readImageLabels(json: unknown): Readonly<Record<string, string>> | undefined {
  const config = asRecord(asRecord(json)?.Config);
  if (!config) return undefined;
  const labels = config.Labels;
  if (labels === undefined || labels === null) return {};
  const record = asRecord(labels);
  return record && Object.values(record).every((v) => typeof v === 'string') ? textMap(record) : undefined;
}

const EVERYWHERE = new Set(['', '0.0.0.0', '::']);

function practicesOf(item: Fields): ContainerPractices {
  const config = recordAt(item, 'Config');
  const host = recordAt(item, 'HostConfig');
  return {
    user: textAt(config, 'User'),
    envNames: [...new Set(textsAt(config, 'Env').flatMap(nameOfSet))].sort(),
    memoryLimit: countAt(host, 'Memory'),
    // -1 and null are no limit, too; countAt makes both 0.
    pidsLimit: countAt(host, 'PidsLimit'),
    openPorts: openPorts(item, host),
  };
}

/** The name of `NAME=value`; none when the value is empty. */
function nameOfSet(pair: string): string[] {
  const at = pair.indexOf('=');
  return at > 0 && at < pair.length - 1 ? [pair.slice(0, at)] : [];
}

/** NetworkSettings.Ports has the bound ports while it runs, HostConfig.PortBindings the requested ones. */
function openPorts(item: Fields, host: Fields): readonly string[] {
  const bound = recordAt(recordAt(item, 'NetworkSettings'), 'Ports');
  const ports = Object.keys(bound).length > 0 ? bound : recordAt(host, 'PortBindings');
  const open = Object.keys(ports).flatMap((key) =>
    listAt(ports, key)
      .map(asRecord)
      .filter((b) => EVERYWHERE.has(textAt(b, 'HostIp')))
      .map((b) => `${textAt(b, 'HostPort') || '(any)'}->${key}`),
  );
  return [...new Set(open)].sort();
}
