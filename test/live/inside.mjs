// What tests run inside containers beside the probe: one command, JSON lines. Plain JavaScript: it runs there alone.
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { connect, createServer, isIPv6 } from 'node:net';

const say = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);

/** Echo on TCP and UDP ports of every address; tells who came. */
function listen(...ports) {
  for (const port of ports.map(Number)) {
    const server = createServer((s) => {
      say({ tcp: port, from: s.remoteAddress });
      s.on('error', () => s.destroy());
      s.pipe(s);
    });
    server.listen({ port, host: '::' }, () => say({ listening: port }));
    const udp = createSocket('udp6');
    udp.on('message', (m, peer) => {
      say({ udp: port, from: peer.address });
      udp.send(m, peer.port, peer.address);
    });
    udp.bind(port);
  }
}

const get = (url) =>
  new Promise((resolve) => {
    const request = http.get(url, { agent: false, timeout: 10_000 }, (res) => {
      res.resume();
      res.on('end', () => resolve({ ok: res.statusCode === 200, at: res.socket?.remoteAddress }));
    });
    request.on('timeout', () => request.destroy(new Error('time-out')));
    request.on('error', (e) => resolve({ ok: false, why: e.code ?? e.message }));
  });

/** The URL again and again, each time resolved anew. */
async function repeat(url, times, pauseMs) {
  const failures = [];
  const places = new Set();
  for (let i = 0; i < Number(times); i++) {
    const r = await get(url);
    if (r.ok) places.add(new URL(`http://${isIPv6(r.at) ? `[${r.at}]` : r.at}`).hostname);
    else failures.push(`${i}: ${r.why}`);
    await new Promise((done) => setTimeout(done, Number(pauseMs)));
  }
  say({ failures, places: places.size });
}

const canConnect = (host, port, ms = 10_000, localAddress = undefined) =>
  new Promise((resolve) => {
    const s = connect({ host, port: Number(port), ...(localAddress ? { localAddress } : {}) });
    const end = (outcome) => {
      s.destroy();
      resolve(outcome);
    };
    s.setTimeout(ms, () => end('TIMEOUT'));
    s.on('connect', () => end('ok'));
    s.on('error', (e) => end(e.code));
  });

/** All addresses of a name, and a connection to each. */
async function each(name, port) {
  const found = await lookup(name, { all: true, family: 4 });
  const outcomes = await Promise.all(found.map((a) => canConnect(a.address, port)));
  say({ addresses: found.length, outcomes: [...new Set(outcomes)] });
}

function query(name) {
  const head = Buffer.from([0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  const labels = name.split('.').map((l) => Buffer.concat([Buffer.from([l.length]), Buffer.from(l)]));
  return Buffer.concat([head, ...labels, Buffer.from([0, 0, 1, 0, 1])]);
}

/** 53, and all that the kernel gives to a socket that asks for no port, as Docker's resolver. */
function portsToScan() {
  const [first, last] = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8')
    .trim()
    .split(/\s+/)
    .map(Number);
  return [53, ...Array.from({ length: last - first + 1 }, (_, i) => first + i)];
}

/** One datagram to each of these ports: which ports answer, with which code, is in `answers` until `close`. */
function scanUdp(host, message, ports) {
  const socket = createSocket('udp4');
  const answers = {};
  socket.on('message', (m, peer) => {
    answers[peer.port] = m[3] & 15;
  });
  socket.on('error', () => undefined); // an ICMP error of an earlier datagram
  return new Promise((resolve) => {
    socket.bind(0, '127.0.0.1', () => {
      let next = 0;
      const some = () => {
        for (let i = 0; i < 1000 && next < ports.length; i++)
          socket.send(message, ports[next++], host, () => undefined);
        if (next < ports.length) return setTimeout(some, 5);
        resolve({ answers, close: () => socket.close() });
      };
      some();
    });
  });
}

/** The question over TCP at one port: the answer's code, or undefined when nobody listens or answers. */
const askTcp = (host, port, message) =>
  new Promise((resolve) => {
    const s = connect({ host, port });
    const end = (r) => {
      s.destroy();
      resolve(r);
    };
    s.setTimeout(3000, () => end('silent'));
    s.on('connect', () => s.write(Buffer.concat([Buffer.from([0, message.length]), message])));
    s.on('data', (d) => d.length > 5 && end(d[5] & 15));
    s.on('error', () => end(undefined));
    s.on('end', () => end('closed'));
  });

async function scanTcp(host, message, ports) {
  const answers = {};
  let next = 0;
  const worker = async () => {
    for (let port = ports[next++]; port !== undefined; port = ports[next++]) {
      const r = await askTcp(host, port, message);
      if (r !== undefined) answers[port] = r;
    }
  };
  await Promise.all(Array.from({ length: 256 }, worker));
  return answers;
}

/** Asks the UDP and TCP ports of an address for a name. */
async function scan(host, name) {
  const message = query(name);
  const ports = portsToScan();
  const udp = await scanUdp(host, message, ports);
  const [tcp] = await Promise.all([
    scanTcp(host, message, ports),
    new Promise((done) => setTimeout(done, 2000)),
  ]);
  udp.close();
  say({ udp: udp.answers, tcp });
}

/** A connection and a datagram from an address that the interface has. */
async function from(source, host, port) {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
  socket.on('error', () => undefined); // refused: the other side's log tells
  await new Promise((done) => socket.bind({ address: source }, done));
  socket.send('forged', Number(port), host);
  const outcome = await canConnect(host, port, 2000, source);
  socket.close();
  say({ outcome });
}

/** Lines to a port that echoes, over TCP, from each of these addresses; in the end when each got its last piece. */
function hold(ms, host, port, ...sources) {
  const last = Object.fromEntries(sources.map((source) => [source, 0]));
  for (const localAddress of sources) {
    const s = connect({ host, port: Number(port), localAddress });
    s.on('data', () => {
      last[localAddress] = Date.now();
    });
    s.on('error', () => undefined); // what it got so far is told
    setInterval(() => s.writable && s.write('line\n'), 100);
  }
  setTimeout(() => {
    say({ last });
    process.exit(0);
  }, Number(ms));
}

/** TCP and UDP, where the other side sends (port 19) and where it echoes what is sent to it each 100 ms (port 7777). */
function flowsTo(host, counts) {
  const tag = isIPv6(host) ? 'six' : 'four';
  const count = (name) => {
    counts[`${tag} ${name}`] = 0;
    return () => counts[`${tag} ${name}`]++;
  };
  for (const [name, port] of [
    ['tcp from', 19],
    ['tcp to', 7777],
  ]) {
    const got = count(name);
    const s = connect({ host, port });
    s.on('data', got);
    s.on('error', (e) => say({ flow: `${tag} ${name}`, error: e.code }));
    if (port !== 19) setInterval(() => s.writable && s.write('line\n'), 100);
  }
  for (const [name, port] of [
    ['udp from', 19],
    ['udp to', 7777],
  ]) {
    const got = count(name);
    const u = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
    u.on('message', got);
    u.on('error', () => undefined); // an ICMP error: what counts is what arrives
    u.bind(0, () => {
      // the first may be lost: rules in a namespace of macvlan may come after it
      const begin = () => {
        if (counts[`${tag} ${name}`] > 0) return;
        u.send('begin', port, host, () => undefined);
        setTimeout(begin, 500);
      };
      begin();
      if (port !== 19) setInterval(() => u.send('line', port, host, () => undefined), 100);
    });
  }
}

/** Flows to these addresses until the end; how many pieces each has got, every 50 ms. */
function flows(...hosts) {
  const counts = {};
  for (const host of hosts) flowsTo(host, counts);
  setInterval(() => say({ at: Date.now(), counts }), 50);
}

/** The other side of `flows`: echoes on port 7777, sends each 100 ms on port 19; how many pieces it has got, every 50 ms. */
function serve() {
  let got = 0;
  for (const port of [19, 7777]) {
    createServer((s) => {
      s.on('error', () => s.destroy());
      s.on('data', () => got++);
      if (port === 7777) return s.pipe(s);
      const timer = setInterval(() => s.write('line\n'), 100);
      s.on('close', () => clearInterval(timer));
    }).listen({ port, host: '::' });
    const udp = createSocket('udp6');
    udp.on('error', () => undefined); // nobody listens any more
    udp.on('message', (m, peer) => {
      got++;
      const send = () => udp.send(m, peer.port, peer.address);
      if (port === 7777) return send();
      const timer = setInterval(send, 100);
      setTimeout(() => clearInterval(timer), 60_000);
    });
    udp.bind(port);
  }
  setInterval(() => say({ at: Date.now(), counts: { got } }), 50);
}

/** Datagrams from port 7778 to port 7777 of each of these until one comes back; how many have come, every 50 ms. */
function hear(...hosts) {
  const counts = Object.fromEntries(hosts.map((h) => [h, 0]));
  for (const host of hosts) {
    const u = createSocket({ type: isIPv6(host) ? 'udp6' : 'udp4', ipv6Only: isIPv6(host) });
    u.on('message', (_, peer) => counts[peer.address]++);
    u.on('error', (e) => say({ host, error: e.message }));
    const ask = () => {
      if (counts[host] > 0) return;
      u.send('heard?', 7777, host);
      setTimeout(ask, 200);
    };
    u.bind(7778, ask);
  }
  setInterval(() => say({ at: Date.now(), counts }), 50);
}

/** Datagrams and connections to an echo at each of these addresses without a pause; how many echoes came, every 50 ms. */
function press(...hosts) {
  const counts = { udp: 0, tcp: 0 };
  const dial = (host) => {
    const s = connect({ host, port: 7777 });
    const again = () => {
      s.removeAllListeners('close');
      s.destroy();
      setTimeout(dial, 5, host);
    };
    const timer = setTimeout(again, 200);
    s.on('connect', () => clearTimeout(timer));
    s.on('connect', () => s.write('line\n'));
    s.on('data', () => counts.tcp++ && setTimeout(() => s.writable && s.write('line\n'), 10));
    s.on('error', () => undefined); // refused: it dials again
    s.on('close', () => clearTimeout(timer) ?? again());
  };
  for (const host of hosts) {
    for (let n = 0; n < 4; n++) dial(host);
    const u = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
    u.on('message', () => counts.udp++);
    u.on('error', () => undefined);
    u.bind(0, () => setInterval(() => u.send('line', 7777, host, () => undefined), 2));
  }
  setInterval(() => say({ at: Date.now(), counts }), 50);
}

/** Asks a resolver for the address of a name, four times a second without end; a line for each, in their order. */
async function ask(resolver, name) {
  const labels = name.split('.').map((l) => `${String.fromCharCode(l.length)}${l}`);
  const question = Buffer.from(
    `\0\0\u0001\0\0\u0001\0\0\0\0\0\0${labels.join('')}\0\0\u0001\0\u0001`,
    'latin1',
  );
  for (let id = 1; ; id = (id % 65_535) + 1) {
    const socket = createSocket('udp4');
    question.writeUInt16BE(id);
    const answer = await new Promise((done) => {
      socket.on('message', (m) => done(m.readUInt16BE(6) > 0 ? 'ok' : `rcode ${m[3] & 15}`));
      socket.on('error', (e) => done(e.code));
      socket.send(question, 53, resolver, (e) => e && done(e.code));
      setTimeout(done, 5_000, 'no answer').unref();
    });
    socket.close();
    process.stdout.write(`${answer}\n`);
    await new Promise((done) => setTimeout(done, 250));
  }
}

/** Asks a time server, as SNTP does (RFC 4330). */
async function ntp(name, family) {
  const [{ address }] = await lookup(name, { all: true, family: Number(family) });
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  const question = Buffer.alloc(48);
  question[0] = 0x23; // version 4, client
  question.write('asked at', 40);
  socket.on('message', (m) => {
    const seconds = m.readUInt32BE(40) - 2_208_988_800;
    const isOurs = m.toString('latin1', 24, 32) === 'asked at' && (m[0] & 7) === 4;
    say({ stratum: m[1], isNow: isOurs && Math.abs(seconds - Date.now() / 1000) < 60 });
    process.exit(0);
  });
  socket.send(question, 123, address);
  setTimeout(() => process.exit(1), 10_000);
}

/** Connects, and says nothing until it is told to by SIGHUP; tells what comes back. */
function idle(...hosts) {
  for (const host of hosts) {
    const s = connect({ host, port: 7777 });
    s.on('connect', () => say({ open: host }));
    s.on('data', () => say({ answered: host }));
    s.on('error', (e) => say({ lost: host, why: e.code }));
    process.on('SIGHUP', () => s.write('still there?'));
  }
}

/** Sends that many bytes to an echo, and counts what comes back. */
async function volume(host, port, bytes) {
  const s = connect({ host, port: Number(port) });
  const end = (o) => {
    say(o);
    process.exit(0);
  };
  setTimeout(() => end({ got, why: 'TIMEOUT' }), 15_000);
  s.on('error', (e) => end({ got, why: e.code }));
  let got = 0;
  s.on('data', (d) => {
    got += d.length;
    if (got >= Number(bytes)) end({ got });
  });
  s.on('connect', () => s.write(Buffer.alloc(Number(bytes), 'x')));
}

/** Many requests at once: how many were answered, and what became of the others. */
async function many(url, count) {
  const results = await Promise.all(Array.from({ length: Number(count) }, () => get(url)));
  say({
    answered: results.filter((r) => r.ok).length,
    others: results.filter((r) => !r.ok).map((r) => r.why),
  });
}

const commands = {
  ask,
  flows,
  serve,
  press,
  hear,
  listen,
  repeat,
  each,
  scan,
  from,
  hold,
  ntp,
  idle,
  volume,
  many,
};
const [command, ...words] = process.argv.slice(2);
await commands[command](...words);
