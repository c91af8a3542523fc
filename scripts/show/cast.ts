/** Who plays in the demo, what each may reach, and what each tries. */
import { readFileSync } from 'node:fs';
import type { Zone } from '../../test/lab/zone.js';

export interface Attempt {
  readonly host: string;
  readonly port: number;
  /** As explain wants it, where that is not HOST:PORT. */
  readonly to?: string;
}
export interface Actor {
  readonly name: string;
  readonly what: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Labels of the image itself: it is made with them. */
  readonly imageLabels?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
  readonly cmd?: readonly string[];
  readonly attempts: readonly Attempt[];
}

const web = (host: string): Attempt => ({ host, port: 443 });
const neighbour = (name: string, port: number): Attempt => ({
  host: name,
  port,
  to: `container:${name}:${port}`,
});
const listener = (name: string, port: number): Actor => ({
  name,
  what: '',
  args: ['--network-alias', name],
  labels: { 'com.docker.compose.service': name },
  cmd: ['nc', '-ll', '-p', `${port}`, '-e', 'cat'],
  attempts: [],
});

const DB = listener('db', 5432);
const CACHE = listener('cache', 6379);
const AGENT: Actor = {
  name: 'agent',
  what: 'an AI agent',
  labels: { 'drawbridge.allow': 'api.openai.com', 'drawbridge.lists': 'pypi' },
  attempts: [
    web('api.openai.com'),
    web('pypi.org'),
    web('pastebin.com'),
    web('203.0.113.9'),
    { host: '169.254.169.254', port: 80 },
  ],
};
const WEB: Actor = {
  name: 'web',
  what: 'a web application with its database',
  labels: { 'drawbridge.allow': 'container:db:5432, api.stripe.com' },
  attempts: [neighbour('db', 5432), neighbour('cache', 6379), web('api.stripe.com')],
};
const RUNNER: Actor = {
  name: 'runner-7',
  what: 'a CI job without labels, claimed by the list ci.yaml for its name',
  attempts: [web('registry.npmjs.org'), web('github.com')],
};
const ROGUE: Actor = {
  name: 'rogue',
  what: 'its image says drawbridge.mode=off of itself; an image may only tighten',
  imageLabels: { 'drawbridge.mode': 'off' },
  labels: { 'drawbridge.allow': 'pypi.org' },
  attempts: [web('pypi.org'), web('github.com')],
};
const LEGACY: Actor = {
  name: 'legacy',
  what: 'without labels or lists: observed, nothing is denied',
  attempts: [web('github.com')],
};
const SIX: Actor = {
  name: 'six',
  what: 'over IPv6',
  labels: { 'drawbridge.allow': '[2600:9000::/64]:443' },
  attempts: [
    { host: '2600:9000::1', port: 443, to: '[2600:9000::1]:443' },
    { host: '2600:9000:0:1::1', port: 443, to: '[2600:9000:0:1::1]:443' },
  ],
};

/** The real internet may be without IPv6: that scene is the lab's. */
export const HOST_CAST: readonly Actor[] = [DB, CACHE, AGENT, WEB, RUNNER, ROGUE, LEGACY];
export const LAB_CAST: readonly Actor[] = [...HOST_CAST, SIX];

const ci = (allow: readonly string[]): string =>
  `description: build jobs\nmatch: { name: "*runner-*" }\nallow: [${allow.join(', ')}]\n`;
const CI_BEFORE = ci(['registry.npmjs.org', 'github.com:22']);
export const CI_AFTER = ci(['github.com:22']);

/** What the lab's internet knows. */
export const ZONE: Zone = {
  'api.openai.com': { A: ['93.184.1.1', '93.184.1.2'], ttl: 5 },
  'pypi.org': { A: ['151.101.0.223'], AAAA: ['2a04:4e42::223'] },
  'pastebin.com': { A: ['93.184.6.6'] },
  'api.stripe.com': { CNAME: 'edge.stripe.com' },
  'edge.stripe.com': { A: ['93.184.3.1'] },
  'registry.npmjs.org': { A: ['93.184.4.1'] },
  'github.com': { A: ['93.184.5.1'] },
};

/** The folder of lists at the start: one that ships, one of the house. */
export const LISTS = {
  'pypi.yaml': readFileSync(new URL('../../allowlists/pypi.yaml', import.meta.url), 'utf8'),
  'ci.yaml': CI_BEFORE,
};
