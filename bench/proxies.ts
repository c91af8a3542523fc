/**
 * Transparent proxies that permit connections by the name in the ClientHello, as they would be used in the place of Drawbridge: in the network
 * namespace of a lab's host, where nat redirects to one of them what containers send to port 443. Each permits the same names, keeps no log of
 * connections and has two workers or threads, if it can; HAProxy hands data on with splice(2). All are packages of Debian (squid-openssl,
 * haproxy, sniproxy, libnginx-mod-stream).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../test/lab/lab.js';
import { end, run, waitFor } from '../test/lab/process.js';

export interface Site {
  readonly name: string;
  readonly address: string;
}
interface Kind {
  readonly id: string;
  readonly label: string;
  readonly program: string;
  /** The user that it becomes, which must own its files. */
  readonly owner?: string;
  /** A file that the package has, if the program alone is not enough. */
  readonly needs?: string;
  readonly port: number;
  /** The text of its configuration, and its command. */
  config(at: Placed): string;
  argv(file: string, at: Placed): readonly string[];
}
interface Placed {
  readonly dir: string;
  readonly port: number;
  readonly sites: readonly Site[];
  readonly resolver: string;
}

const names = (sites: readonly Site[]): string => sites.map((s) => s.name).join(' ');

const KINDS: readonly Kind[] = [
  {
    id: 'squid',
    label: 'Squid (peek and splice)',
    program: 'squid',
    needs: '/usr/sbin/squid-openssl',
    owner: 'proxy',
    port: 3130,
    config: ({ dir, port, sites, resolver }) => `
workers 2
http_port 127.0.0.1:3128
https_port ${port} intercept ssl-bump tls-cert=${dir}/proxy.pem tls-key=${dir}/proxy.key generate-host-certificates=off
acl first at_step SslBump1
acl site ssl::server_name ${names(sites)}
ssl_bump peek first
ssl_bump splice site
ssl_bump terminate all
http_access allow all
dns_nameservers ${resolver}
cache deny all
cache_mem 0 MB
access_log none
cache_log ${dir}/cache.log
cache_store_log none
logfile_rotate 0
pinger_enable off
client_db off
pid_filename ${dir}/squid.pid
coredump_dir ${dir}
shutdown_lifetime 0 seconds
`,
    argv: (file) => ['squid', '--foreground', '-n', `drawbridgebench${process.pid}`, '-f', file],
  },
  {
    id: 'haproxy',
    label: 'HAProxy (SNI, TCP mode)',
    program: 'haproxy',
    port: 3131,
    config: ({ port, sites }) => `
global
  nbthread 2
  maxconn 4096
defaults
  mode tcp
  option splice-auto
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend tls
  bind 0.0.0.0:${port}
  tcp-request inspect-delay 3s
  acl hello req.ssl_hello_type 1
  acl site req.ssl_sni -i ${names(sites)}
  tcp-request content accept if hello site
  tcp-request content reject if hello
  tcp-request content reject
  default_backend destination
backend destination
  server destination 0.0.0.0:443
`,
    argv: (file) => ['haproxy', '-db', '-q', '-f', file],
  },
  {
    id: 'sniproxy',
    label: 'sniproxy',
    program: 'sniproxy',
    port: 3132,
    config: ({ dir, port, sites }) => `
user root
pidfile ${dir}/sniproxy.pid
error_log {
  filename ${dir}/sniproxy.log
  priority error
}
listener 0.0.0.0:${port} {
  proto tls
  table sites
}
table sites {
${sites.map((s) => `  ^${s.name.replaceAll('.', '\\.')}$ ${s.address}:443`).join('\n')}
}
`,
    argv: (file) => ['sniproxy', '-f', '-c', file],
  },
  {
    id: 'nginx',
    label: 'nginx (stream, ssl_preread)',
    program: 'nginx',
    needs: '/usr/lib/nginx/modules/ngx_stream_module.so',
    port: 3133,
    config: ({ dir, port, sites }) => `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
worker_processes 2;
pid ${dir}/nginx.pid;
error_log ${dir}/nginx.log crit;
events { worker_connections 8192; multi_accept on; }
stream {
  access_log off;
  map $ssl_preread_server_name $destination {
${sites.map((s) => `    ${s.name} ${s.address}:443;`).join('\n')}
    default '';
  }
  server {
    listen 0.0.0.0:${port} reuseport backlog=1024;
    ssl_preread on;
    proxy_buffer_size 64k;
    proxy_pass $destination;
  }
}
`,
    argv: (file, { dir }) => ['nginx', '-e', `${dir}/nginx.log`, '-c', file],
  },
];

const found = (program: string): boolean =>
  ['/usr/sbin', '/usr/bin', '/usr/local/sbin', '/usr/local/bin'].some((d) => existsSync(join(d, program)));

export class NameProxy {
  readonly id: string;
  readonly label: string;
  readonly port: number;
  readonly #process: ChildProcess;

  private constructor(kind: Kind, child: ChildProcess) {
    this.id = kind.id;
    this.label = kind.label;
    this.port = kind.port;
    this.#process = child;
  }

  /** Its processes: those of the group of the first one. */
  get pids(): readonly number[] {
    const group = String(this.#process.pid);
    return readdirSync('/proc').flatMap((pid) =>
      /^\d+$/.test(pid) && groupOf(pid) === group ? [Number(pid)] : [],
    );
  }

  /** Starts all that are installed; the others are named on stderr. */
  static async startAll(lab: Lab, sites: readonly Site[], resolver: string): Promise<readonly NameProxy[]> {
    const all: NameProxy[] = [];
    for (const kind of KINDS) {
      if (!found(kind.program) || (kind.needs !== undefined && !existsSync(kind.needs))) {
        console.error(`${kind.label} is not installed, and not compared`);
        continue;
      }
      const dir = join(lab.dir, `proxy-${kind.id}`);
      mkdirSync(dir);
      await certificate(dir);
      const at = { dir, port: kind.port, sites, resolver };
      const file = join(dir, 'configuration');
      writeFileSync(file, kind.config(at));
      if (kind.owner !== undefined) await run(['chown', '-R', kind.owner, dir], { check: true });
      const argv = [`--net=${lab.hostNetns}`, '--', ...kind.argv(file, at)];
      const child = spawn('nsenter', argv, { detached: true, stdio: ['ignore', 'ignore', 'inherit'] });
      const proxy = new NameProxy(kind, child);
      all.push(proxy);
      await waitFor(`${kind.label} to listen`, async () => {
        if (child.exitCode !== null) throw new Error(`${kind.label} ended with ${child.exitCode}`);
        const { stdout } = await lab.inHost(['ss', '-Hltn', `sport = :${kind.port}`]);
        return stdout !== '';
      });
    }
    return all;
  }

  async stop(): Promise<void> {
    const { pids } = this;
    await Promise.all(pids.map((pid) => end(pid, 2_000)));
  }
}

/** The process group, field 5 of /proc/PID/stat. */
function groupOf(pid: string): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2];
  } catch {
    return undefined; // it has ended
  }
}

/** Squid wants one for its port, though it shows it to no client. */
const certificate = (dir: string): Promise<unknown> =>
  run(
    [
      ...[
        'openssl',
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-days',
        '30',
      ],
      ...['-subj', '/CN=bench', '-keyout', join(dir, 'proxy.key'), '-out', join(dir, 'proxy.pem')],
    ],
    { check: true },
  );

/** Redirects what containers send to port 443 to a proxy of the host; undefined: to none. */
export async function redirect(lab: Lab, port: number | undefined): Promise<void> {
  const rule =
    port === undefined ? '' : `-A BENCH -i docker0 -p tcp --dport 443 -j REDIRECT --to-ports ${port}\n`;
  await lab.inHost(['iptables-restore', '-w', '--noflush'], {
    input: `*nat\n:BENCH - [0:0]\n-F BENCH\n${rule}COMMIT\n`,
    check: true,
  });
}
