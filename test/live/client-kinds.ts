/** Real clients, and what each of them prints when it has reached a site. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { CA, EARLY, GOOD, hasQuicServer, QUIC_RETRY, RETRIED } from './client-sites.js';
import { npmProgram } from './package-tools.js';

export interface Client {
  readonly name: string;
  /** A script for sh; its exit code is that of the client. */
  readonly script: (site: string) => string;
  readonly prints: (site: string) => string | RegExp;
  /** A site of its own; default: the one whose address the others share. */
  readonly site?: string;
  /** It does not end when its page cannot be loaded. */
  readonly isEndless?: true;
  /** Why it cannot be tried here. */
  readonly missing?: string | false;
}

const content = (site: string): string => `the content of ${site}`;
const lacks = (path: string, what: string): string | false => !existsSync(path) && `${what} is not installed`;
const curlFeatures = (): string => spawnSync('curl', ['--version'], { encoding: 'utf8' }).stdout ?? '';
const noQuic =
  (!curlFeatures().includes('HTTP3') && 'curl has no HTTP/3') ||
  (!hasQuicServer() && 'python3-aioquic is not installed: no server of HTTP/3');
const noPostQuantum =
  !(spawnSync('openssl', ['list', '-tls-groups'], { encoding: 'utf8' }).stdout ?? '').includes('MLKEM768') &&
  'openssl has no post-quantum groups';
const noCurl = lacks('/usr/bin/curl', 'curl');

const curl = (name: string, flags: string, version: string, missing: string | false = noCurl): Client => ({
  name: `curl, ${name}`,
  script: (site) => `curl -sS ${flags} -w ' %{http_version}' https://${site}/content`,
  prints: (site) => `${content(site)} ${version}`,
  missing,
});
/**
 * On a busy host, curl 8.14 with OpenSSL's QUIC sometimes sends no request after its handshake, also where nothing filters. Its own --retry
 * uses the same connection again.
 */
const http3 = (name: string): Client => {
  const once = curl(name, '--http3-only --max-time 10', '3', noQuic);
  const script = (site: string): string =>
    `for i in 1 2 3 4 5; do ${once.script(site)}; code=$?; [ $code = 28 ] || exit $code; done; exit 28`;
  return { ...once, script };
};
const node = (name: string, words: (site: string) => string, prints: Client['prints']): Client => ({
  name: `node, ${name}`,
  script: (site) => `/opt/node --experimental-websocket /programs.mjs ${words(site)}`,
  prints,
});
/** Connections at once: to the site that matters. */
const count = (site: string): number => (site === GOOD ? 1_000 : 50);
const both = (make: (scheme: 'http' | 'https') => Client): Client[] => [make('http'), make('https')];

const sClient = (site: string, flags: string): string =>
  `openssl s_client -connect ${site}:443 -servername ${site} -CAfile ${CA} -verify_return_error ${flags}`;

const NUMBERS = Array.from({ length: 3 }, (_, n) => n);
const UPLOADS = NUMBERS.map((n) => `--next -sS -T /tmp/up -H 'Expect: 100-continue' SCHEME://SITE/up${n}`);

const APT_FOLDERS = ['lists/partial', 'cache/archives/partial', 'etc/apt.conf.d', 'etc/preferences.d'];
const APT = [
  'Dir::State::status=/tmp/apt/status',
  'Dir::State::lists=/tmp/apt/lists',
  'Dir::Cache=/tmp/apt/cache',
  'Dir::Etc=/tmp/apt/etc',
  `Acquire::https::CAInfo=${CA}`,
  'APT::Sandbox::User=root',
  'APT::Update::Error-Mode=any',
  'Acquire::Retries=0',
];

const REQUESTS = `
import requests, sys
base = sys.argv[1]
with requests.Session() as s:
    print(s.get(base + "/content").text)
    print(s.post(base + "/up", data=b"x" * 3000000).json()["length"])
    print(s.post(base + "/up", data=(b"y" * 1000 for _ in range(2000))).json()["length"])
`;

const packages = (scheme: 'http' | 'https'): Client[] => [
  {
    name: `apt over ${scheme}`,
    script: (site) =>
      [
        `rm -rf /tmp/apt && mkdir -p ${APT_FOLDERS.map((f) => `/tmp/apt/${f}`).join(' ')} && cd /tmp/apt && : >status`,
        `echo 'deb [trusted=yes] ${scheme}://${site}/debian ./' >etc/sources.list`,
        `APT="apt-get -q ${APT.map((o) => `-o ${o}`).join(' ')}"`,
        '$APT update && $APT download greeting && cat *.deb',
      ].join('\n'),
    prints: () => 'what dpkg would unpack',
    missing: lacks('/usr/bin/apt-get', 'apt'),
  },
  {
    name: `git over ${scheme}: clone and push`,
    script: (site) =>
      [
        'rm -rf /tmp/clone; export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*',
        `export GIT_SSL_CAINFO=${CA} GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a`,
        `git clone -q ${scheme}://${site}/repository /tmp/clone && cd /tmp/clone && cat README &&`,
        `head -c 3000000 /dev/urandom >more && git add . && git commit -q -m more &&`,
        `git push -q origin main:${scheme}-${site} && git ls-remote`,
      ].join('\n'),
    prints: (site) => new RegExp(`from the lab.*refs/heads/${scheme}-${site}`, 's'),
    missing: lacks('/usr/bin/git', 'git'),
  },
  {
    name: `requests of Python over ${scheme}`,
    script: (site) => `/usr/bin/python3 -c '${REQUESTS}' ${scheme}://${site}`,
    prints: (site) => `${content(site)}\n3000000\n2000000\n`,
    missing: lacks('/usr/lib/python3/dist-packages/requests', 'python3-requests'),
  },
];

const CHROMIUM = '/usr/lib/chromium/chromium';
const FIREFOX = '/usr/lib/firefox-esr/firefox-esr';
const chromium = (site: string, flags: string, path: string): string =>
  [
    'rm -rf /tmp/chromium /tmp/dom',
    `timeout 40 ${CHROMIUM} --headless --no-sandbox --disable-gpu --user-data-dir=/tmp/chromium --ignore-certificate-errors-spki-list=$PIN ${flags} --dump-dom https://${site}${path} >/tmp/dom 2>/tmp/chromium.log`,
    "grep -E 'content of|net error' /tmp/dom /tmp/chromium.log; grep -q 'content of' /tmp/dom",
  ].join('\n');
const FIREFOX_SETTINGS = {
  'network.captive-portal-service.enabled': false,
  'browser.aboutwelcome.enabled': false,
  'network.process.enabled': false,
};
const BROWSERS: readonly Client[] = [
  {
    name: 'chromium, HTTP/2 and WebSocket',
    script: (site) => chromium(site, '', '/browsed/'),
    prints: (site) => new RegExp(`${content(site)}, echo, .*Chrome`),
    missing: lacks(CHROMIUM, 'chromium'),
  },
  {
    name: 'chromium, HTTP/3',
    script: (site) => chromium(site, `--enable-quic --origin-to-force-quic-on=${site}:443`, '/content'),
    prints: content,
    missing: lacks(CHROMIUM, 'chromium') || noQuic,
  },
  {
    name: 'firefox, HTTP/2 and WebSocket',
    isEndless: true,
    script: (site) =>
      [
        'rm -rf /tmp/firefox /tmp/shot.png; mkdir /tmp/firefox',
        ...Object.entries(FIREFOX_SETTINGS).map(
          ([name, value]) => `echo 'user_pref("${name}", ${value});' >>/tmp/firefox/user.js`,
        ),
        `timeout 15 ${FIREFOX} --headless --no-remote --profile /tmp/firefox --screenshot /tmp/shot.png https://${site}/browsed/ >/dev/null 2>&1`,
        `curl -sS --cacert ${CA} https://${site}/reports`,
      ].join('\n'),
    prints: (site) => new RegExp(`${content(site)}, echo, .*Firefox`),
    missing: lacks(FIREFOX, 'firefox-esr'),
  },
];

export const CLIENTS: readonly Client[] = [
  curl('TLS 1.2', '--tls-max 1.2 --http1.1', '1.1'),
  curl('TLS 1.3', '--tlsv1.3 --http1.1', '1.1'),
  curl('HTTP/2', '--http2', '2'),
  http3('HTTP/3'),
  { ...http3('HTTP/3 after a Retry'), site: QUIC_RETRY },
  ...both((scheme) => ({
    name: `curl, one connection and uploads over ${scheme}`,
    script: (site) =>
      [
        'head -c 2000000 /dev/urandom >/tmp/up',
        `curl -sS --http1.1 ${scheme}://${site}/content -w ' %{num_connects} ' ${UPLOADS.join(' ').replaceAll('SCHEME', scheme).replaceAll('SITE', site)}`,
      ].join('\n'),
    prints: (site) => new RegExp(`${content(site)} 1 (\\{"length":2000000,"sha256":"\\w+"\\} ?){3}`),
    missing: noCurl,
  })),
  {
    name: 'curl, bodies of GET and DELETE over http',
    script: (site) =>
      ['GET', 'DELETE']
        .map((method) => `curl -sS -X ${method} --json '{"query": {"match_all": {}}}' http://${site}/content`)
        .join(' && '),
    prints: content,
    missing: noCurl,
  },
  node('fetch', (site) => `fetch https://${site}/content`, content),
  node('https', (site) => `get https://${site}/content`, content),
  ...both((scheme) =>
    node(
      `ten requests on one connection over ${scheme}`,
      (site) => `alive ${scheme}://${site}/content`,
      (site) => `1 connection: ${content(site)}, whole`,
    ),
  ),
  ...both((scheme) =>
    node(
      `1,000 connections at once over ${scheme}`,
      (site) => `many ${scheme}://${site}/content ${count(site)}`,
      (site) => JSON.stringify({ [content(site)]: count(site) }),
    ),
  ),
  ...(['ws', 'wss'] as const).map((scheme) =>
    node(
      `WebSocket over ${scheme}`,
      (site) => `websocket ${scheme}://${site}/echo`,
      (site) => `echo of ${scheme}://${site}/echo`,
    ),
  ),
  ...packages('http'),
  ...packages('https'),
  {
    name: 'pip',
    script: (site) =>
      [
        'rm -rf /tmp/lib; cd /tmp',
        `/usr/bin/python3 -m pip install -q --root-user-action ignore --no-cache-dir --disable-pip-version-check --retries 0 --target /tmp/lib --index-url https://${site}/simple/ greeting &&`,
        'PYTHONPATH=/tmp/lib /usr/bin/python3 -c "import greeting; print(greeting.text)"',
      ].join('\n'),
    prints: () => 'from the lab',
    missing: lacks('/usr/bin/pip3', 'pip'),
  },
  {
    name: 'npm',
    script: (site) =>
      [
        'rm -rf /tmp/npm && mkdir /tmp/npm && cd /tmp/npm &&',
        `/opt/node ${npmProgram()} install --no-audit --no-fund --no-update-notifier --fetch-retries 0 --registry https://${site}/ greeting &&`,
        `/opt/node -p 'require("greeting")'`,
      ].join('\n'),
    prints: () => 'from the lab',
  },
  {
    name: 'openssl, a post-quantum hello',
    site: EARLY,
    script: (site) => `echo Q | ${sClient(site, '-groups X25519MLKEM768')} 2>&1`,
    prints: () => /Negotiated TLS1.3 group: X25519MLKEM768.*Verify return code: 0/s,
    missing: noPostQuantum,
  },
  {
    name: 'openssl, a second hello after a HelloRetryRequest',
    site: RETRIED,
    script: (site) =>
      `(echo 'GET / HTTP/1.0'; echo) | ${sClient(site, '-groups X25519:P-521 -ign_eof -msg -crlf')} 2>&1`,
    prints: () => /ClientHello.*ClientHello.*Peer Temp Key: ECDH, secp521r1.*Verify return code: 0/s,
  },
  {
    name: 'openssl, early data of a resumed session',
    site: EARLY,
    script: (site) =>
      [
        `(echo hello; sleep 0.3; echo Q) | ${sClient(site, '-sess_out /tmp/session')} >/dev/null 2>&1`,
        // its first flight is larger than one packet
        'head -c 8000 /dev/urandom | base64 >/tmp/early',
        `(sleep 0.3; echo Q) | ${sClient(site, '-sess_in /tmp/session -early_data /tmp/early')} 2>&1`,
      ].join('\n'),
    prints: () => /Reused, TLSv1.3.*Early data was accepted/s,
  },
  ...BROWSERS,
];
