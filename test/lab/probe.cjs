#!/usr/bin/env node
'use strict';
// Network attempts, one line of JSON for each: { ok, code, ms, ... }. Plain JavaScript: it runs inside containers, alone. A test run starts it
// some thousand times: CommonJS, and modules that are loaded on use, take a quarter less processor time than ES modules.
const { writeSync } = require('node:fs');
const { connect, isIPv6 } = require('node:net');

const USAGE = `usage: probe.cjs COMMAND ... [--timeout MS] [--local-port N]
  tcp HOST PORT [TEXT]        connect; with TEXT also send it and read the echo
  udp HOST PORT [TEXT] [N]    send N datagrams (default 1), count the echoes
  http URL [--sni NAME] [--host NAME]
  dns SERVER NAME TYPE [udp|tcp]
  hold HOST PORT              connect, then print a line for each second of data, until it ends
  each JSON                   a list of the above (but hold), one after the other
  serve                       the same for lines of stdin, { id, words }, as they come; each result has its id`;

/** An attempt in progress: `finish` ends it with its first result. */
function begin(argv, done) {
  const words = argv.map(String);
  const option = (name, fallback) => {
    const i = words.indexOf(`--${name}`);
    return i < 0 ? fallback : words.splice(i, 2)[1];
  };
  const attempt = {
    timeout: Number(option('timeout', 3000)),
    localPort: Number(option('local-port', 0)),
    sni: option('sni', undefined),
    hostHeader: option('host', undefined),
    opened: [],
    timers: [],
  };
  const began = performance.now();
  let isOver = false;
  attempt.finish = (result) => {
    if (isOver) return;
    isOver = true;
    done({ ...result, ms: Math.round(performance.now() - began) }, attempt);
  };
  attempt.failed = (e) => attempt.finish({ ok: false, code: e.code ?? 'ERROR', message: e.message });
  attempt.late = (result) => attempt.timers.push(setTimeout(() => attempt.finish(result()), attempt.timeout));
  attempt.timer = () => attempt.late(() => ({ ok: false, code: 'TIMEOUT' }));
  attempt.open = (socket) => {
    attempt.opened.push(socket);
    socket.on('error', attempt.failed);
    socket.on('close', () => {
      socket.isClosed = true;
    });
    return socket;
  };
  const [command, ...rest] = words;
  if (commands[command] === undefined) {
    process.stderr.write(`${USAGE}\n`);
    process.exit(2);
  }
  try {
    commands[command](attempt, ...rest);
  } catch (e) {
    attempt.failed(e);
  }
}

/** As the end of a process does: the next attempt may have the same port. */
function close({ opened, timers }) {
  for (const timer of timers) clearTimeout(timer);
  return Promise.all(
    opened.map((socket) => {
      if (socket.isClosed) return undefined;
      return new Promise((resolve) => {
        socket.once('close', resolve);
        if (socket.destroy) socket.destroy();
        else socket.close();
      });
    }),
  );
}

const datagrams = (attempt, host) =>
  attempt.open(require('node:dgram').createSocket(isIPv6(host) ? 'udp6' : 'udp4'));

function tcp(attempt, host, port, text) {
  const { localPort, finish } = attempt;
  attempt.timer();
  const socket = attempt.open(connect({ host, port: Number(port), ...(localPort ? { localPort } : {}) }));
  const ends = () => ({
    local: socket.localAddress,
    localPort: socket.localPort,
    remote: socket.remoteAddress,
  });
  socket.on('connect', () =>
    text === undefined ? finish({ ok: true, code: null, ...ends() }) : socket.write(text),
  );
  socket.on('data', (d) => finish({ ok: true, code: null, ...ends(), data: d.toString() }));
  socket.on('end', () => finish({ ok: false, code: 'EOF', ...ends() }));
}

function udp(attempt, host, port, text = 'probe', count = '1') {
  const { localPort, finish } = attempt;
  const socket = datagrams(attempt, host);
  const n = Number(count);
  let echoes = 0;
  attempt.late(() => ({ ok: echoes > 0, code: echoes > 0 ? null : 'TIMEOUT', sent: n, echoes }));
  socket.on('message', (m) => {
    echoes++;
    if (echoes === n)
      finish({ ok: true, code: null, sent: n, echoes, data: m.toString(), localPort: socket.address().port });
  });
  socket.bind(localPort, () => {
    // connected, so that an ICMP error comes back as an error code
    socket.connect(Number(port), host, (e) => {
      if (e) return attempt.failed(e);
      for (let i = 0; i < n; i++) socket.send(text);
    });
  });
}

function http(attempt, url) {
  const { sni, hostHeader, finish } = attempt;
  attempt.timer();
  const headers = hostHeader === undefined ? {} : { host: hostHeader };
  const tls = { rejectUnauthorized: false, ...(sni === undefined ? {} : { servername: sni }) };
  const request = require(url.startsWith('https:') ? 'node:https' : 'node:http').get(
    url,
    { headers, agent: false, ...tls },
    (res) => {
      let text = '';
      res.on('data', (d) => {
        text += d;
      });
      res.on('end', () =>
        finish({
          ok: true,
          code: null,
          status: res.statusCode,
          body: parse(text),
          remote: res.socket?.remoteAddress,
        }),
      );
    },
  );
  attempt.open(request);
}
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text.slice(0, 1000);
  }
}

const TYPES = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  SVCB: 64,
  HTTPS: 65,
  ANY: 255,
};
const RCODES = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED'];

function question(name, type) {
  const labels = name.split('.').filter((l) => l !== '');
  const head = Buffer.from([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  head.writeUInt16BE(Math.floor(Math.random() * 65_536), 0);
  const number = TYPES[type.toUpperCase()] ?? Number(type);
  const tail = Buffer.from([0, number >> 8, number & 255, 0, 1]);
  return Buffer.concat([
    head,
    ...labels.map((l) => Buffer.concat([Buffer.from([l.length]), Buffer.from(l)])),
    tail,
  ]);
}
function skipName(m, at) {
  let i = at;
  while (m[i] !== 0 && (m[i] & 0xc0) === 0) i += m[i] + 1;
  return m[i] === 0 ? i + 1 : i + 2;
}
function address(m, at, length) {
  if (length === 4) return [...m.subarray(at, at + 4)].join('.');
  const words = Array.from({ length: 8 }, (_, i) => m.readUInt16BE(at + 2 * i).toString(16));
  return new URL(`http://[${words.join(':')}]`).hostname.slice(1, -1);
}
function dnsAnswer(m) {
  const answers = [];
  let at = skipName(m, 12) + 4;
  for (let i = 0; i < m.readUInt16BE(6); i++) {
    at = skipName(m, at);
    const [type, ttl, length] = [m.readUInt16BE(at), m.readUInt32BE(at + 4), m.readUInt16BE(at + 8)];
    const name = Object.keys(TYPES).find((k) => TYPES[k] === type) ?? String(type);
    const data =
      type === 1 || type === 28
        ? address(m, at + 10, length)
        : m.toString('base64', at + 10, at + 10 + length);
    answers.push({ type: name, ttl, data });
    at += 10 + length;
  }
  const rcode = RCODES[m[3] & 15] ?? String(m[3] & 15);
  const addresses = answers.filter((a) => a.type === 'A' || a.type === 'AAAA').map((a) => a.data);
  return {
    ok: rcode === 'NOERROR',
    code: null,
    rcode,
    aa: (m[2] & 4) !== 0,
    tc: (m[2] & 2) !== 0,
    addresses,
    answers,
  };
}
function dns(attempt, server, name, type = 'A', over = 'udp') {
  const { localPort, finish, failed } = attempt;
  attempt.timer();
  const query = question(name, type);
  if (over === 'udp') {
    const socket = datagrams(attempt, server);
    socket.on('message', (m) => m.readUInt16BE(0) === query.readUInt16BE(0) && finish(dnsAnswer(m)));
    socket.bind(localPort, () => socket.connect(53, server, (e) => (e ? failed(e) : socket.send(query))));
    return;
  }
  let got = Buffer.alloc(0);
  const socket = attempt.open(
    connect(53, server, () => socket.write(Buffer.concat([Buffer.from([0, query.length]), query]))),
  );
  socket.on('data', (d) => {
    got = Buffer.concat([got, d]);
    if (got.length >= 2 && got.length >= 2 + got.readUInt16BE(0)) finish(dnsAnswer(got.subarray(2)));
  });
  socket.on('end', () => finish({ ok: false, code: 'EOF' }));
}

function hold(attempt, host, port) {
  let bytes = 0;
  const socket = attempt.open(connect({ host, port: Number(port) }));
  socket.on('data', (d) => {
    bytes += d.length;
  });
  socket.on('end', () => attempt.finish({ ok: false, code: 'EOF', bytes }));
  setInterval(() => say({ alive: true, bytes }), 1000);
}

const commands = { tcp, udp, dns, hold, http };
const say = (o) => writeSync(1, `${JSON.stringify(o)}\n`);

function each([words, ...others]) {
  if (words === undefined) process.exit(0);
  begin(words, (result, attempt) => {
    say(result);
    close(attempt).then(() => each(others));
  });
}

/** A result is sent when its sockets are closed. */
function serve() {
  const answer = (line) => {
    const { id, words } = JSON.parse(line);
    begin(words, (result, attempt) => close(attempt).then(() => say({ id, ...result })));
  };
  require('node:readline')
    .createInterface({ input: process.stdin })
    .on('line', answer)
    .on('close', () => process.exit(0));
}

const [first, list] = process.argv.slice(2);
if (first === 'serve') serve();
else if (first === 'each') each(JSON.parse(list));
else
  begin(process.argv.slice(2), (result) => {
    say(result);
    process.exit(0);
  });
