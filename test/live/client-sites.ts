/** Sites of a lab for real clients: HTTP/1.1, HTTP/2, HTTP/3, WebSocket, TLS of several kinds, a git repository, packages. */
import { createHash, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';
import { run, startDaemon, tail, waitFor } from '../lab/process.js';
import { sites } from './package-tools.js';

/** The permitted site; two others at its address; and permitted ones with servers of their own. */
export const GOOD = 'good.clients.test';
export const EVIL = 'evil.clients.test';
export const OTHER = 'other.clients.test';
/** HTTP/1.1 only: of a program that is as fast as it can be. */
export const BULK = 'bulk.clients.test';
/** Its server accepts a group only that clients do not send a key for: HelloRetryRequest. */
export const RETRIED = 'hello-retry.clients.test';
/** openssl s_server: post-quantum groups, sessions and early data. */
export const EARLY = 'early.clients.test';
/** Its server of HTTP/3 wants a Retry. */
export const QUIC_RETRY = 'quic-retry.clients.test';
export const PERMITTED = [GOOD, BULK, RETRIED, EARLY, QUIC_RETRY];
const PLACES = { [GOOD]: 1, [EVIL]: 1, [OTHER]: 1, [BULK]: 2, [RETRIED]: 3, [EARLY]: 4, [QUIC_RETRY]: 5 };
export const ADDRESS = '93.184.60.1';
const places4 = (n: number): string => `93.184.60.${n}`;
const places6 = (n: number): string => `2600:9000:60::${n}`;

const PORT = { h2: 4430, bulk: 4431, retried: 4432, early: 4433, http: 8090 } as const;
/** From the port that clients use to that of the server: the lab's own servers have 80 and 443 of all addresses. */
const REDIRECTED: readonly (readonly [place: number, from: number, to: number])[] = [
  [1, 443, PORT.h2],
  [2, 443, PORT.bulk],
  [3, 443, PORT.retried],
  [4, 443, PORT.early],
  [1, 80, PORT.http],
  [2, 80, PORT.http],
];
const QUIC = [1, 5];

const AIOQUIC = '/usr/lib/python3/dist-packages/aioquic';
export const hasQuicServer = (): boolean => existsSync(AIOQUIC);

/** The script reports once all of it has worked; the image keeps the page loading until then. */
const BROWSED = `<!DOCTYPE html><script>
(async () => {
  const text = await (await fetch('/content')).text();
  const echo = await new Promise((done) => {
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/echo');
    socket.onopen = () => socket.send('echo');
    socket.onmessage = ({ data }) => done(data);
    socket.onerror = () => done('no echo');
  });
  const what = [text, echo, navigator.userAgent].join(', ');
  document.body.append(what);
  await fetch('/report/' + encodeURIComponent(what), { method: 'POST', body: new Uint8Array(100000) });
})();
</script><body><img src="/loading"></body>`;

async function pages(): Promise<Record<string, string>> {
  const found: Record<string, string> = { '/browsed/': Buffer.from(BROWSED).toString('base64') };
  for (const site of Object.values(await sites()))
    for (const [path, body] of Object.entries(site)) {
      const own = typeof body === 'string' ? body.replace(/https:\/\/[a-z.]+\.org/g, 'ORIGIN') : body;
      found[path] = Buffer.from(own).toString('base64');
    }
  return found;
}

async function certificate(lab: Lab, folder: string): Promise<void> {
  const ca = join(lab.dir, 'certificates');
  const signer = ['-CA', join(ca, 'ca.pem'), '-CAkey', join(ca, 'ca.key')];
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const out = ['-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem'), '-days', '30'];
  const names = Object.keys(PLACES).map((name) => `DNS:${name}`);
  const extensions = [`subjectAltName=${names.join(',')}`, 'basicConstraints=critical,CA:FALSE'];
  const subject = ['-subj', '/CN=clients', ...extensions.flatMap((e) => ['-addext', e])];
  await run(['openssl', 'req', '-x509', ...signer, ...key, ...out, ...subject], { check: true });
}

/** A repository with one file of text and one that is large. */
async function repository(folder: string): Promise<void> {
  const work = join(folder, 'work');
  const git = (...words: string[]): Promise<unknown> =>
    run(['git', '-C', work, '-c', 'user.name=lab', '-c', 'user.email=lab@lab.test', ...words], {
      check: true,
    });
  await run(['git', 'init', '-q', '-b', 'main', work], { check: true });
  writeFileSync(join(work, 'README'), 'from the lab\n');
  writeFileSync(join(work, 'large'), Buffer.from(Array.from({ length: 500_000 }, (_, i) => (i * i) % 251)));
  await git('add', '.');
  await git('commit', '-q', '-m', 'first');
  const bare = join(folder, 'repository');
  await run(['git', 'clone', '-q', '--bare', work, bare], { check: true });
  await run(['git', '-C', bare, 'config', 'http.receivepack', 'true'], { check: true });
}

function rules(place: (n: number) => string): string {
  const tcp = REDIRECTED.map(
    ([n, from, to]) => `-I PREROUTING -p tcp -d ${place(n)} --dport ${from} -j REDIRECT --to-ports ${to}`,
  );
  const udp = QUIC.map((n) => `-I PREROUTING -p udp -d ${place(n)} --dport 443 -j RETURN`);
  return ['*nat', ...tcp, ...udp, 'COMMIT', ''].join('\n');
}

export interface Seen {
  readonly host?: string;
  readonly http?: string;
  readonly path?: string;
}
export class ClientSites {
  readonly #logs: string[] = [];
  readonly #lab: Lab;
  readonly #folder: string;
  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#folder = join(lab.dir, 'clients');
  }

  static async start(lab: Lab): Promise<ClientSites> {
    const made = new ClientSites(lab);
    await made.#start();
    return made;
  }

  async #start(): Promise<void> {
    const [lab, folder] = [this.#lab, this.#folder];
    mkdirSync(folder);
    const at = (n: number) => ({ A: [places4(n)], AAAA: [places6(n)] });
    const zone = Object.entries(PLACES).map(([name, n]) => [name, at(n)] as const);
    await Promise.all([
      certificate(lab, folder),
      repository(folder),
      pages().then((found) => writeFileSync(join(folder, 'pages.json'), JSON.stringify(found))),
      lab.dns.set(Object.fromEntries(zone)),
      lab.inNet(['iptables-restore', '--noflush'], { input: rules(places4), check: true }),
      lab.inNet(['ip6tables-restore', '--noflush'], { input: rules(places6), check: true }),
      ...QUIC.map((n) =>
        lab.inNet(['ip', 'address', 'add', `${places4(n)}/32`, 'dev', 'lo'], { check: true }),
      ),
      ...QUIC.map((n) =>
        lab.inNet(['ip', 'address', 'add', `${places6(n)}/128`, 'dev', 'lo', 'nodad'], { check: true }),
      ),
    ]);
    const pair = ['-cert', join(folder, 'cert.pem'), '-key', join(folder, 'key.pem')];
    const server = (...words: readonly (string | number)[]) => [
      'openssl',
      's_server',
      ...pair,
      ...words.map(String),
    ];
    const here = import.meta.dirname;
    await Promise.all([
      this.#server(
        [process.execPath, join(here, 'client-servers.mjs'), folder, PORT.h2, PORT.bulk, PORT.http].map(
          String,
        ),
        /(listening.*){3}/s,
      ),
      this.#server(server('-accept', PORT.retried, '-groups', 'P-521', '-www'), /ACCEPT/),
      // it ends with its input
      this.#server(
        ['sh', '-c', `tail -f /dev/null | ${server('-accept', PORT.early, '-early_data').join(' ')}`],
        /ACCEPT/,
      ),
      ...(hasQuicServer() ? [this.#quic()] : []),
    ]);
  }

  #quic(): Promise<void> {
    const addresses = [places4(1), places6(1), `retry:${places4(5)}`, `retry:${places6(5)}`];
    const program = join(import.meta.dirname, 'http3-server.py');
    return this.#server(['/usr/bin/python3', program, this.#folder, ...addresses], /listening/);
  }

  /** Its processes end with the lab. */
  async #server(argv: readonly string[], ready: RegExp): Promise<void> {
    const log = join(this.#folder, `${this.#logs.push('')}.log`);
    this.#logs[this.#logs.length - 1] = log;
    startDaemon(['nsenter', `--net=${this.#lab.netNetns}`, '--', ...argv], log);
    await waitFor(`${argv[0]} to listen`, () => ready.test(readFileSync(log, 'utf8'))).catch((e: Error) => {
      throw new Error(`${e.message}: ${tail(log)}`);
    });
  }

  /** What chromium takes for the key of a certificate that it need not verify otherwise. */
  get pin(): string {
    const { publicKey } = new X509Certificate(readFileSync(join(this.#folder, 'cert.pem')));
    return createHash('sha256')
      .update(publicKey.export({ type: 'spki', format: 'der' }))
      .digest('base64');
  }

  /** The requests that have arrived. */
  seen(): readonly Seen[] {
    const lines = this.#logs.flatMap((log) => readFileSync(log, 'utf8').split('\n'));
    return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Seen);
  }
}

const FIREFOX_POLICIES = '/usr/share/firefox-esr/distribution';

/** Mounts that give a container the programs of this machine, and the authority of the lab. */
export function machineMounts(lab: Lab): string[] {
  const here = import.meta.dirname;
  const policies = join(lab.dir, 'firefox');
  mkdirSync(policies, { recursive: true });
  const policy = { policies: { Certificates: { Install: ['/ca.pem'] } } };
  writeFileSync(join(policies, 'policies.json'), JSON.stringify(policy));
  const same = ['/usr', '/etc/alternatives', '/etc/chromium.d', '/etc/fonts', '/etc/ssl/openssl.cnf'];
  return [
    ...same.filter((path) => existsSync(path)).map((path) => `${path}:${path}:ro`),
    '/usr/lib:/lib:ro',
    ...(existsSync('/usr/lib64') ? ['/usr/lib64:/lib64:ro'] : []),
    `${process.execPath}:/opt/node:ro`,
    ...(existsSync(FIREFOX_POLICIES) ? [`${policies}:${FIREFOX_POLICIES}:ro`] : []),
    `${lab.caFile}:/ca.pem:ro`,
    `${lab.caFile}:/etc/ssl/certs/ca-certificates.crt:ro`,
    `${join(here, 'client-programs.mjs')}:/programs.mjs:ro`,
  ];
}
export const CA = '/etc/ssl/certs/ca-certificates.crt';
export const CLIENT_ENV = {
  HOME: '/tmp',
  NODE_EXTRA_CA_CERTS: CA,
  REQUESTS_CA_BUNDLE: CA,
  PIP_CERT: CA,
  DEBIAN_FRONTEND: 'noninteractive',
};
