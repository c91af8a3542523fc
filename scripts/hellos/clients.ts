/** The clients that are recorded, each with the command that it is. */

export interface Client {
  /** Of the file. */
  readonly name: string;
  /** The program whose version is written next to the recording. */
  readonly program: keyof typeof VERSION_COMMANDS;
  readonly command: (env: Environment) => readonly string[];
  /** Browsers do not end by themselves. */
  readonly seconds?: number;
}
export interface Environment {
  /** A directory for what a client writes. */
  readonly work: string;
  readonly echList: string;
}

/** A field of dpkg-query. */
const VERSION = '$' + '{Version}';
const PYTHON = '/usr/bin/python3';
export const VERSION_COMMANDS = {
  openssl: ['openssl', 'version'],
  curl: ['curl', '--version'],
  gnutls: ['gnutls-cli', '--version'],
  node: ['node', '-p', '"Node " + process.version + ", OpenSSL " + process.versions.openssl'],
  python: [
    PYTHON,
    '-c',
    'import platform, ssl, requests; print("Python", platform.python_version(), ssl.OPENSSL_VERSION, "requests", requests.__version__)',
  ],
  go: ['go', 'version'],
  'quic-go': ['dpkg-query', '-W', '-f', `quic-go ${VERSION}`, 'golang-github-lucas-clemente-quic-go-dev'],
  chromium: ['chromium', '--version'],
  firefox: ['firefox-esr', '--version'],
  wget: ['wget', '--version'],
  git: ['git', '--version'],
  aioquic: [PYTHON, '-c', 'import aioquic; print("aioquic", aioquic.__version__)'],
  ngtcp2: ['dpkg-query', '-W', '-f', `ngtcp2 ${VERSION}`, 'ngtcp2-client'],
  apt: ['apt-get', '--version'],
} as const;

const here = (file: string): string => new URL(file, import.meta.url).pathname;
const client = (name: string, program: Client['program'], ...argv: readonly string[]): Client => ({
  name,
  program,
  command: () => argv,
});

/** s_client ends when its standard input does. */
const sClient = (...args: readonly string[]): readonly string[] => ['openssl', 's_client', ...args];
/** The first connection waits for a session ticket, at most 10 s. */
const EARLY = 'openssl s_client -connect a.example:446 -servername early.example';
const url = (name: string): string => `https://${name}.example/`;

const OPENSSL: readonly Client[] = [
  client(
    'openssl-tls12',
    'openssl',
    ...sClient('-connect', 'a.example:443', '-servername', 'tls12.example', '-tls1_2'),
  ),
  client(
    'openssl-pq',
    'openssl',
    ...sClient('-connect', 'a.example:443', '-servername', 'pq.example', '-groups', 'X25519MLKEM768'),
  ),
  client(
    'openssl-tls13',
    'openssl',
    ...sClient('-connect', 'a.example:443', '-servername', 'tls13.example', '-groups', 'X25519'),
  ),
  client(
    'openssl-fragments',
    'openssl',
    ...sClient(
      '-connect',
      'a.example:443',
      '-servername',
      'fragments.example',
      '-max_send_frag',
      '512',
      '-groups',
      'X25519MLKEM768',
    ),
  ),
  client('openssl-no-name', 'openssl', ...sClient('-connect', 'a.example:443', '-noservername')),
  client('openssl-retry', 'openssl', ...sClient('-connect', 'a.example:444', '-servername', 'retry.example')),
  client(
    'openssl-quic',
    'openssl',
    ...sClient('-connect', 'a.example:443', '-servername', 'quic.example', '-quic', '-alpn', 'h3'),
  ),
  {
    name: 'openssl-early-data',
    program: 'openssl',
    command: ({ work }) => [
      'sh',
      '-c',
      `n=0; until [ -s ${work}/session ] || [ $((n += 1)) -gt 200 ]; do sleep 0.05; done | ${EARLY} -sess_out ${work}/session; ${EARLY} -sess_in ${work}/session -early_data ${work}/early </dev/null`,
    ],
  },
];

const LIBRARIES: readonly Client[] = [
  client('curl-tls12', 'curl', 'curl', '-sk', '--tls-max', '1.2', '--http1.1', url('curl-tls12')),
  client('curl-h2', 'curl', 'curl', '-sk', '--http2', url('curl-h2')),
  client('curl-h3', 'curl', 'curl', '-sk', '--http3-only', '-m', '10', url('curl-h3')),
  client('gnutls', 'gnutls', 'gnutls-cli', '--insecure', '-p', '443', 'gnutls.example'),
  client(
    'gnutls-tls12',
    'gnutls',
    'gnutls-cli',
    '--insecure',
    '--priority',
    'NORMAL:-VERS-TLS1.3',
    '-p',
    '443',
    'gnutls-tls12.example',
  ),
  client('node-tls', 'node', 'node', here('node-client.mjs'), 'tls', url('node')),
  client('python-tls', 'python', PYTHON, here('python-http.py'), 'tls', url('requests')),
  client('wget-tls', 'wget', 'wget', '-q', '--no-check-certificate', '-O', '/dev/null', url('wget')),
  client('git-tls', 'git', 'git', '-c', 'http.sslVerify=false', 'ls-remote', `${url('git')}repository`),
];

const go = (name: string, mode: string, target: string, program: Client['program'] = 'go'): Client => ({
  name,
  program,
  command: ({ work, echList }) => [`${work}/client`, mode, target, echList],
});
const GO: readonly Client[] = [
  go('go-pq', 'tls', url('go')),
  go('go-tls12', 'tls12', url('go-tls12')),
  go('go-retry', 'no-pq', 'https://go-retry.example:444/'),
  go('go-pq-retry', 'tls', 'https://go-pq-retry.example:444/'),
  go('go-ech', 'ech', url('secret')),
  go('go-ech-retry', 'ech', 'https://secret.example:444/'),
  go('go-quic', 'quic', url('go-quic'), 'quic-go'),
  go('go-quic-v2', 'quic-v2', url('go-quic-v2'), 'quic-go'),
  go('go-quic-retry', 'quic', 'https://go-quic-retry.example:445/', 'quic-go'),
  go('go-quic-0rtt', 'quic-0rtt', url('go-quic-0rtt'), 'quic-go'),
];

const gtls = (name: string, port: number, ...args: readonly string[]): Client =>
  client(
    name,
    'ngtcp2',
    'gtlsclient',
    '--quiet',
    '--exit-on-all-streams-close',
    '--timeout=5s',
    ...args,
    `${name}.example`,
    String(port),
    `https://${name}.example/`,
  );
const QUIC: readonly Client[] = [
  client('aioquic-v1', 'aioquic', PYTHON, here('aioquic-client.py'), '1', 'aioquic-v1.example', '443'),
  client('aioquic-v2', 'aioquic', PYTHON, here('aioquic-client.py'), '2', 'aioquic-v2.example', '443'),
  client('aioquic-retry', 'aioquic', PYTHON, here('aioquic-client.py'), '1', 'aioquic-retry.example', '445'),
  gtls('ngtcp2-v1', 447),
  gtls('ngtcp2-v1-to-v2', 448, '--available-versions=v1,v2'),
  gtls('ngtcp2-v2', 448, '--version=v2', '--preferred-versions=v2'),
  gtls('ngtcp2-retry', 449),
];

const browser = (name: string, ...flags: readonly string[]): Client => ({
  name,
  program: 'chromium',
  seconds: 25,
  command: ({ work }) => [
    'chromium',
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--ignore-certificate-errors',
    `--user-data-dir=${work}/${name}`,
    ...flags,
    '--dump-dom',
    url(name),
  ],
});
const firefox = (name: string): Client => ({
  name,
  program: 'firefox',
  seconds: 25,
  command: ({ work }) => [
    'firefox-esr',
    '--headless',
    '--no-remote',
    '--profile',
    `${work}/${name}`,
    url(name),
  ],
});
const BROWSERS: readonly Client[] = [
  browser('chromium-h2'),
  browser('chromium-h3', '--origin-to-force-quic-on=chromium-h3.example:443'),
  firefox('firefox-h2'),
  firefox('firefox-h3'),
];

const HTTP: readonly Client[] = [
  client(
    'http-curl',
    'curl',
    'curl',
    '-s',
    'http://http-curl.example/one',
    'http://http-curl.example/two',
    '--next',
    '-s',
    '-d',
    'a=1&b=2',
    'http://http-curl.example/post',
    '--next',
    '-s',
    '-H',
    'Transfer-Encoding: chunked',
    '-d',
    'abcdef',
    'http://http-curl.example/chunked',
    '--next',
    '-s',
    '-I',
    'http://http-curl.example/head',
  ),
  client(
    'http-curl-continue',
    'curl',
    'curl',
    '-s',
    '-H',
    'Expect: 100-continue',
    '-d',
    'x'.repeat(2_000),
    'http://http-curl-continue.example/',
    '--next',
    '-s',
    'http://http-curl-continue.example/after',
  ),
  client('http-curl-1.0', 'curl', 'curl', '-s', '--http1.0', 'http://http-curl-old.example/'),
  client('http-curl-websocket', 'curl', 'curl', '-s', '-m', '3', 'ws://http-curl-websocket.example/chat'),
  client(
    'http-wget',
    'wget',
    'wget',
    '-q',
    '-O',
    '/dev/null',
    'http://http-wget.example/one',
    'http://http-wget.example/two',
  ),
  client(
    'http-wget-post',
    'wget',
    'wget',
    '-q',
    '-O',
    '/dev/null',
    '--post-data',
    'a=1',
    'http://http-wget-post.example/',
  ),
  client('http-urllib', 'python', PYTHON, here('python-http.py'), 'urllib', 'http://http-urllib.example/'),
  client(
    'http-requests',
    'python',
    PYTHON,
    here('python-http.py'),
    'requests',
    'http://http-requests.example/',
  ),
  client('http-node', 'node', 'node', here('node-client.mjs'), 'http', 'http://http-node.example/'),
  go('http-go', 'http', 'http://http-go.example/'),
  {
    name: 'http-apt',
    program: 'apt',
    command: ({ work }) => [
      '/usr/lib/apt/apt-helper',
      '-o',
      'APT::Sandbox::User=root',
      '-o',
      'Acquire::AllowInsecureRepositories=true',
      'download-file',
      ...['a', 'b', 'c', 'd'].flatMap((f) => [`http://http-apt.example/${f}`, `${work}/apt-${f}`, '']),
    ],
  },
];

export const CLIENTS: readonly Client[] = [...OPENSSL, ...LIBRARIES, ...GO, ...QUIC, ...BROWSERS, ...HTTP];
