/**
 * Real servers in a network of their own behind NET, each at an address of its own, with HTTP on port 80, TLS on 443 and QUIC on 443. Their own
 * logs tell which sites they were asked for: the Host of each request, and the server name of each hello, as their own parsers have read it.
 */
import { closeSync, mkdirSync, openSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';
import { type PackagedServers, provideServers } from '../lab/packaged-servers.js';
import { run, startDaemon, tail, waitFor } from '../lab/process.js';
import type { Family } from './report.js';

/** The site that an entry permits. Every other name at these servers is another site. */
export const PERMITTED = 'permitted-site.example';
/** Behind the ten letters of an attempt: a name as long as the permitted one. */
export const OTHER = '.bad.example';
export type Protocol = 'http' | 'tls' | 'quic' | 'dtls';

/** How Apache calls itself where it was asked for no site. */
const NO_SITE = 'no-site.example';

/** What a server has read. */
export interface Seen {
  readonly server: string;
  /** Source port; 0: the server does not tell. */
  readonly port: number;
  /** Sites that it was asked for. */
  readonly names: readonly string[];
  /** Target of a request. */
  readonly target: string;
  /** Whether it was answered as a request; a server name alone is none. */
  readonly isServed: boolean;
}
type Line = Omit<Seen, 'server'>;
interface Server {
  readonly name: string;
  readonly protocols: readonly Protocol[];
  argv(p: PackagedServers, folder: string, at: Addresses): readonly string[];
  readonly files?: (folder: string, at: Addresses, p: PackagedServers) => Readonly<Record<string, string>>;
  /** Of its log. Undefined: a line that tells nothing of a site. */
  read(line: string): Line | undefined;
  readonly env?: Readonly<Record<string, string>>;
}
interface Addresses {
  readonly v4: string;
  readonly v6: string;
}

const addressesOf = (n: number): Addresses => ({ v4: `185.12.2.${n}`, v6: `2a0c:8882::${n}` });
const PROGRAMS = join(import.meta.dirname, 'programs');
const text = (value: unknown): string => (typeof value === 'string' && value !== '-' ? value : '');

interface Logged {
  readonly port?: number | string;
  readonly hosts?: readonly string[];
  readonly host?: string;
  readonly effective?: string;
  readonly target?: string;
  readonly status?: string | number;
  readonly sni?: string;
}
/** The host in a target that is a URL: it is the site, whatever the Host line says (RFC 9112 3.2.2). */
const authorityOf = (target: string): string =>
  /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*@)?([^/?#]*)/i.exec(target)?.[2] ?? '';

/** A line of JSON with these fields, perhaps behind something else. Apache writes a byte as `\\x0b`. One that cannot be read counts as a name. */
function readJson(line: string): Line | undefined {
  const at = line.indexOf('{"');
  if (at < 0) return undefined;
  let o: Logged;
  try {
    o = JSON.parse(line.slice(at).replace(/\\x([0-9a-f]{2})/gi, '\\u00$1')) as Logged;
  } catch {
    return { port: 0, names: [line], target: '', isServed: false };
  }
  const target = text(o.target);
  const all = [...(o.hosts ?? []), text(o.host), text(o.effective), text(o.sni), authorityOf(target)];
  const names = all.filter((n) => n !== '' && n !== NO_SITE);
  const status = Number(o.status ?? 0);
  const isServed = status > 0 && status < 400;
  if (names.length === 0 && !isServed) return undefined;
  return { port: Number(o.port ?? 0), names, target, isServed };
}
/** A name in the text of a line. */
const named =
  (form: RegExp, read: (line: string) => Line | undefined = () => undefined) =>
  (line: string): Line | undefined => {
    const name = form.exec(line)?.[1];
    return name === undefined ? read(line) : { port: 0, names: [name], target: '', isServed: false };
  };

const SERVERS: readonly Server[] = [
  {
    name: 'nginx',
    protocols: ['http', 'tls', 'quic'],
    argv: (p, folder) => [
      join(p.root, 'usr/sbin/nginx'),
      '-p',
      folder,
      '-e',
      'stderr',
      '-c',
      join(folder, 'nginx.conf'),
    ],
    files: (folder, at) => ({ 'nginx.conf': nginx(folder, at) }),
    // it loads the certificate of the name, and names a file that is not there
    read: named(/cannot load certificate "[^"]*\/([^/"]*)\.pem"/, readJson),
  },
  {
    name: 'python',
    protocols: ['http', 'tls'],
    argv: (_, folder, at) => [
      '/usr/bin/python3',
      join(PROGRAMS, 'streams-server.py'),
      'http',
      folder,
      at.v4,
      at.v6,
    ],
    read: readJson,
  },
  {
    name: 'caddy',
    protocols: ['http', 'tls', 'quic'],
    argv: (p, folder) => [
      join(p.root, 'usr/bin/caddy'),
      'run',
      '--adapter',
      'caddyfile',
      '--config',
      join(folder, 'caddyfile'),
    ],
    files: (folder, at) => ({ caddyfile: caddy(folder, at) }),
    // listeners of Go accept Multipath TCP by default, unless its module names an older version of Go
    env: { GODEBUG: 'multipathtcp=1' },
    read: caddyLine,
  },
  {
    name: 'haproxy',
    // of QUIC it logs whole requests alone
    protocols: ['http', 'tls'],
    argv: (p, folder) => [join(p.root, 'usr/sbin/haproxy'), '-db', '-f', join(folder, 'haproxy.cfg')],
    files: (folder, at) => ({ 'haproxy.cfg': haproxy(folder, at) }),
    read: readJson,
  },
  {
    name: 'apache',
    protocols: ['http', 'tls'],
    argv: (p, folder) => [join(p.root, 'usr/sbin/apache2'), '-X', '-f', join(folder, 'apache.conf')],
    files: (folder, at, p) => ({ 'apache.conf': apache(folder, at, p) }),
    read: named(/AH02043: SSL virtual host for servername (\S+) found/, readJson),
  },
  {
    name: 'lighttpd',
    protocols: ['http'],
    argv: (p, folder) => [
      join(p.root, 'usr/sbin/lighttpd'),
      '-D',
      '-f',
      join(folder, 'lighttpd.conf'),
      '-m',
      join(p.root, 'usr/lib/lighttpd'),
    ],
    files: (folder, at) => ({ 'lighttpd.conf': lighttpd(folder, at) }),
    read: readJson,
  },
  {
    name: 'node',
    protocols: ['http', 'tls'],
    argv: (_, folder, at) => [process.execPath, join(PROGRAMS, 'streams-server.mjs'), folder, at.v4, at.v6],
    read: readJson,
  },
  {
    name: 'aioquic',
    protocols: ['quic'],
    argv: (_, folder, at) => [
      '/usr/bin/python3',
      join(PROGRAMS, 'streams-server.py'),
      'quic',
      folder,
      at.v4,
      at.v6,
    ],
    read: readJson,
  },
  {
    name: 'openssl',
    protocols: ['dtls'],
    // it ends with its standard input
    argv: (_, folder, at) => [
      'sh',
      '-c',
      `tail -f /dev/null | exec stdbuf -oL openssl s_server -dtls -listen -trace -accept ${at.v4}:443 -cert ${folder}/cert.pem -key ${folder}/key.pem`,
    ],
    read: openssl,
  },
];

/** The first line of the extension server_name as `-trace` prints it, which has the first ten letters of a name: "0000 - 00 19 00 00 16 61 …". */
function openssl(line: string): Line | undefined {
  const hex = /^\s*0000 - 00 19 00 00 16 ([0-9a-f -]{29}) /.exec(line)?.[1];
  if (hex === undefined) return undefined;
  const begin = Buffer.from(hex.replaceAll(/[ -]/g, ''), 'hex').toString('latin1');
  const name = PERMITTED.startsWith(begin) ? PERMITTED : `${begin}${OTHER}`;
  return { port: 0, names: [name], target: '', isServed: false };
}

const nginx = (folder: string, { v4, v6 }: Addresses): string => `
daemon off; master_process off; pid ${folder}/nginx.pid; error_log stderr error;
events { worker_connections 4096; }
http {
  log_format seen escape=json '{"port":"$remote_port","host":"$http_host","effective":"$host","target":"$request_uri","status":"$status","sni":"$ssl_server_name"}';
  access_log /dev/stdout seen;
  client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fcgi; uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  keepalive_timeout 20s;
  server { listen ${v4}:80 fastopen=256; listen [${v6}]:80 fastopen=256; location / { return 200 answered; } }
  server {
    listen ${v4}:443 ssl; listen [${v6}]:443 ssl; listen ${v4}:443 quic; listen [${v6}]:443 quic;
    ssl_early_data on; ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_certificate ${folder}/sites/$ssl_server_name.pem; ssl_certificate_key ${folder}/key.pem;
    location / { return 200 answered; }
  }
}
`;

const caddy = (folder: string, { v4, v6 }: Addresses): string => `
{
  admin off
  auto_https off
  debug
  log {
    output stdout
    format json
  }
}
http://:80 {
  bind ${v4} ${v6}
  log
  respond answered
}
https://:443 {
  bind ${v4} ${v6}
  log
  tls ${folder}/cert.pem ${folder}/key.pem
  respond answered
}
`;
interface CaddyLine {
  readonly msg?: string;
  readonly identifier?: string;
  readonly status?: number;
  readonly request?: { readonly remote_port: string; readonly host: string; readonly uri: string };
}
function caddyLine(line: string): Line | undefined {
  let o: CaddyLine;
  try {
    o = JSON.parse(line) as CaddyLine;
  } catch {
    return line.startsWith('{') ? { port: 0, names: [line], target: '', isServed: false } : undefined;
  }
  const { msg, identifier, request, status = 0 } = o;
  // without a server name it chooses by the address
  if (
    msg === 'choosing certificate' &&
    identifier !== undefined &&
    /[a-z]/i.test(identifier) &&
    !identifier.includes(':')
  )
    return { port: 0, names: [identifier], target: '', isServed: false };
  if (!request || msg !== 'handled request') return undefined;
  const isServed = status > 0 && status < 400;
  return {
    port: Number(request.remote_port),
    names: [request.host].filter(Boolean),
    target: request.uri,
    isServed,
  };
}

const haproxy = (folder: string, { v4, v6 }: Addresses): string => {
  const seen = `'{"port":"%cp","host":"%[var(txn.host),json(utf8s)]","target":"%[var(txn.url),json(utf8s)]","status":"%ST","sni":"%[ssl_fc_sni,json(utf8s)]"}'`;
  return `
global
  log stdout format raw local0
  tune.ssl.default-dh-param 2048
defaults
  mode http
  log global
  timeout client 20s
  timeout server 20s
  timeout connect 5s
frontend seen
  bind ${v4}:80 tfo
  bind ${v6}:80 tfo
  bind ${v4}:443 ssl crt ${folder}/both.pem alpn http/1.1 allow-0rtt
  bind ${v6}:443 ssl crt ${folder}/both.pem alpn http/1.1 allow-0rtt
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.url) url
  log-format ${seen}
  error-log-format ${seen}
  http-request return status 200 content-type text/plain string answered
`;
};

const apache = (folder: string, { v4, v6 }: Addresses, p: PackagedServers): string => {
  const modules = ['mpm_event', 'authz_core', 'ssl', 'mime', 'alias'].map(
    (m) => `LoadModule ${m}_module ${join(p.root, 'usr/lib/apache2/modules')}/mod_${m}.so`,
  );
  return `
ServerRoot ${folder}
ServerName ${NO_SITE}
PidFile ${folder}/apache.pid
DefaultRuntimeDir ${folder}
${modules.join('\n')}
TypesConfig /dev/null
User nobody
Group nogroup
Listen ${v4}:80
Listen [${v6}]:80
Listen ${v4}:443
Listen [${v6}]:443
KeepAliveTimeout 20
MaxKeepAliveRequests 0
ErrorLog /dev/stderr
LogLevel crit ssl:debug
LogFormat "{\\"port\\":\\"%{remote}p\\",\\"host\\":\\"%{Host}i\\",\\"effective\\":\\"%V\\",\\"target\\":\\"%U\\",\\"status\\":\\"%>s\\"}" seen
CustomLog /dev/stdout seen
DocumentRoot ${folder}/pages
<Directory ${folder}>
  Require all granted
</Directory>
AliasMatch "^" ${folder}/pages/index
<VirtualHost *:443>
  SSLEngine on
  ServerName ${PERMITTED}
  ServerAlias *
  SSLCertificateFile ${folder}/cert.pem
  SSLCertificateKeyFile ${folder}/key.pem
</VirtualHost>
`;
};

const lighttpd = (folder: string, { v4, v6 }: Addresses): string => `
server.document-root = "${folder}/pages"
server.bind = "${v4}"
server.port = 80
server.modules = ( "mod_accesslog", "mod_alias" )
server.errorlog = "${folder}/lighttpd.err"
server.max-keep-alive-requests = 1000
$SERVER["socket"] == "[${v6}]:80" { }
accesslog.filename = "${folder}/lighttpd.log"
accesslog.escaping = "json"
accesslog.format = "{\\"port\\":\\"%{remote}p\\",\\"host\\":\\"%{Host}i\\",\\"effective\\":\\"%V\\",\\"target\\":\\"%U\\",\\"status\\":\\"%s\\"}"
`;

/** One that runs, and how far its log was read. */
interface Running {
  readonly server: Server;
  readonly at: Addresses;
  readonly log: string;
  offset: number;
  rest: string;
}

const NEAR = { v4: '185.12.1.1', v6: '2a0c:8881::1' };

export class StreamServers {
  readonly #running: readonly Running[];
  private constructor(running: readonly Running[]) {
    this.#running = running;
  }

  /** `only`: names of servers. */
  static async start(lab: Lab, only?: readonly string[]): Promise<StreamServers> {
    const packaged = await provideServers();
    const wanted = SERVERS.filter((s) => only === undefined || only.includes(s.name));
    const folder = join(lab.dir, 'streams');
    for (const f of [folder, join(folder, 'sites'), join(folder, 'pages')]) mkdirSync(f, { mode: 0o755 });
    writeFileSync(join(folder, 'pages', 'index'), 'answered');
    await certificate(folder);
    await network(
      lab,
      wanted.map((s) => addressesOf(SERVERS.indexOf(s) + 1)),
    );
    const running = wanted.map((server): Running => {
      const at = addressesOf(SERVERS.indexOf(server) + 1);
      for (const [name, content] of Object.entries(server.files?.(folder, at, packaged) ?? {}))
        writeFileSync(join(folder, name), content);
      const log = join(folder, `${server.name}.log`);
      const inside = ['nsenter', `--net=/run/netns/${lab.record.farNetns}`, '--'];
      const env = { ...packaged.env, HOME: folder, PYTHONUNBUFFERED: '1', ...server.env };
      startDaemon([...inside, ...server.argv(packaged, folder, at)], log, env);
      return { server, at, log, offset: 0, rest: '' };
    });
    const servers = new StreamServers(running);
    await servers.#listening(lab);
    return servers;
  }

  async #listening(lab: Lab): Promise<void> {
    const inside = ['nsenter', `--net=/run/netns/${lab.record.farNetns}`, '--', 'ss', '-Hlntu'];
    for (const { server, at, log } of this.#running)
      await waitFor(`${server.name} to listen`, async () => {
        const { stdout } = await run(inside, { check: true });
        return server.protocols.every((p) => {
          const [kind, port] = [p === 'quic' || p === 'dtls' ? 'udp' : 'tcp', p === 'http' ? 80 : 443];
          return stdout.split('\n').some((l) => l.startsWith(kind) && l.includes(` ${at.v4}:${port} `));
        });
      }).catch((e: Error) => {
        throw new Error(`${e.message}: ${tail(log)}`);
      });
  }

  get list(): readonly { readonly name: string; readonly protocols: readonly Protocol[] }[] {
    return this.#running.map(({ server }) => server);
  }
  addressOf(name: string, family: Family): string {
    const found = this.#running.find(({ server }) => server.name === name);
    if (!found) throw new Error(`no server is called ${name}`);
    return found.at[family];
  }

  /** What all of them have logged since the last call. */
  news(): Seen[] {
    return this.#running.flatMap((running) => {
      const lines = (running.rest + more(running)).split('\n');
      running.rest = lines.pop() ?? '';
      return lines.flatMap((line) => {
        const read = running.server.read(line);
        return read ? [{ server: running.server.name, ...read }] : [];
      });
    });
  }
}

function more(running: Running): string {
  const fd = openSync(running.log, 'r');
  try {
    const parts: string[] = [];
    const buffer = Buffer.alloc(1 << 20);
    for (;;) {
      const length = readSync(fd, buffer, 0, buffer.length, running.offset);
      if (length === 0) return parts.join('');
      running.offset += length;
      parts.push(buffer.toString('latin1', 0, length));
    }
  } finally {
    closeSync(fd);
  }
}

async function certificate(folder: string): Promise<void> {
  const [cert, key, both] = ['cert.pem', 'key.pem', 'both.pem'].map((f) => join(folder, f)) as [
    string,
    string,
    string,
  ];
  const how = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-days',
    '30',
    '-subj',
    `/CN=${PERMITTED}`,
  ];
  await run(
    [
      'openssl',
      'req',
      '-x509',
      ...how,
      '-keyout',
      key,
      '-out',
      cert,
      '-addext',
      `subjectAltName=DNS:${PERMITTED}`,
    ],
    { check: true },
  );
  await run(['sh', '-c', `cat ${cert} ${key} > ${both}; cp ${cert} ${folder}/sites/${PERMITTED}.pem`], {
    check: true,
  });
}

/** A network behind NET, without conntrack: what reaches NET's far side reaches the servers as it is. */
async function network(lab: Lab, places: readonly Addresses[]): Promise<void> {
  const { netNetns, farNetns } = lab.record;
  const check = { check: true };
  await run(['ip', 'netns', 'add', farNetns], check);
  const net = [
    `link add far0 type veth peer name eth0 netns ${farNetns}`,
    `address add ${NEAR.v4}/32 dev far0`,
    `address add ${NEAR.v6}/128 dev far0 nodad`,
    'link set far0 up',
    ...places.flatMap(({ v4, v6 }) => [`route add ${v4}/32 dev far0`, `route add ${v6}/128 dev far0`]),
  ];
  const far = [
    'link set lo up',
    ...places.flatMap(({ v4, v6 }) => [
      `address add ${v4}/32 dev eth0`,
      `address add ${v6}/128 dev eth0 nodad`,
    ]),
    'link set eth0 up',
    `route add ${NEAR.v4}/32 dev eth0`,
    `route add ${NEAR.v6}/128 dev eth0`,
    `route add default via ${NEAR.v4}`,
    `route add ::/0 via ${NEAR.v6}`,
  ];
  await run(['ip', '-n', netNetns, '-batch', '-'], { ...check, input: `${net.join('\n')}\n` });
  await run(['ip', '-n', farNetns, '-batch', '-'], { ...check, input: `${far.join('\n')}\n` });
  const untracked = ['185.12.0.0/16', '2a0c:8882::/64'];
  for (const [tables, range] of [
    ['iptables', untracked[0]],
    ['ip6tables', untracked[1]],
  ] as const)
    for (const side of ['-d', '-s'])
      await lab.inNet([tables, '-t', 'raw', '-A', 'PREROUTING', side, range ?? '', '-j', 'NOTRACK'], check);
  const inFar = ['nsenter', `--net=/run/netns/${farNetns}`, '--'];
  const settings = ['net.ipv4.tcp_fastopen=1539', 'net.ipv4.icmp_ratelimit=0', 'net.core.somaxconn=4096'];
  await run([...inFar, 'sysctl', '-qw', ...settings], check);
}
