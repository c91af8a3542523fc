// Much of one kind, for a bounded time; one line of JSON at the end. Plain JavaScript: it runs inside containers, alone.
import { createSocket } from 'node:dgram';
import http from 'node:http';
import { connect } from 'node:net';

const say = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const nothing = () => undefined;

/** Sends as fast as it may for so long: what arrived, in bits a second. */
async function upload(url, seconds) {
  const began = performance.now();
  const chunk = Buffer.alloc(65_536, 'x');
  const result = await new Promise((resolve) => {
    const request = http.request(url, { method: 'PUT', agent: false }, (res) => {
      let text = '';
      res.on('data', (d) => {
        text += d;
      });
      res.on('end', () => resolve(JSON.parse(text)));
    });
    request.on('error', (e) => resolve({ error: e.code }));
    const more = () => {
      while (performance.now() - began < Number(seconds) * 1000) if (!request.write(chunk)) return;
      request.removeListener('drain', more);
      request.end();
    };
    request.on('drain', more);
    more();
  });
  const elapsed = (performance.now() - began) / 1000;
  say({ ...result, bitsPerSecond: Math.round((8 * (result.received ?? 0)) / elapsed) });
}

/** Connections one after the other that stay open; then each says something again. */
async function open(host, port, count) {
  const sockets = [];
  const outcomes = [];
  for (let i = 0; i < Number(count); i++) {
    const s = connect({ host, port: Number(port) });
    s.on('error', nothing);
    outcomes.push(
      await new Promise((done) => {
        s.once('connect', () => done('ok'));
        s.once('error', (e) => done(e.code));
        setTimeout(() => done('TIMEOUT'), 3000);
      }),
    );
    if (outcomes.at(-1) === 'ok') sockets.push(s);
  }
  const alive = await Promise.all(
    sockets.map((s) => {
      s.write('again');
      return new Promise((done) => {
        s.once('data', () => done(true));
        setTimeout(() => done(false), 3000);
      });
    }),
  );
  sockets[0]?.destroy();
  await pause(500);
  const next = connect({ host, port: Number(port) });
  next.on('error', nothing);
  const after = await new Promise((done) => {
    next.once('connect', () => done('ok'));
    next.once('error', (e) => done(e.code));
  });
  say({ outcomes, alive: alive.filter(Boolean).length, after });
  process.exit(0);
}

const bound = (address) =>
  new Promise((done, fail) => {
    const s = createSocket('udp4');
    s.on('error', fail);
    s.bind({ address, port: 0 }, () => {
      s.removeAllListeners('error');
      s.on('error', nothing);
      done(s);
    });
  });

/** Datagrams of ever new flows to a /24, from these sources ("0.0.0.0": its own; "10.99": any below). */
async function flows(prefix, seconds, source) {
  const any = (i) => (source.split('.').length === 2 ? `${source}.${1 + (i >> 7)}.${1 + (i & 127)}` : source);
  const sockets = await Promise.all(Array.from({ length: 64 }, (_, i) => bound(any(i * 97))));
  const end = performance.now() + Number(seconds) * 1000;
  let sent = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 200; i++) {
      const n = sent++;
      sockets[n % 64].send('x', 2000 + ((n >> 6) % 60_000), `${prefix}.${1 + ((n >> 13) % 250)}`, nothing);
    }
    await pause(1);
  }
  say({ sent });
  process.exit(0);
}

const question = (name) => {
  const labels = name.split('.').map((l) => Buffer.concat([Buffer.from([l.length]), Buffer.from(l)]));
  return Buffer.concat([
    Buffer.from([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ...labels,
    Buffer.from([0, 0, 1, 0, 1]),
  ]);
};

/** Questions for ever new names, as fast as they go out. */
async function names(server, seconds, zone) {
  const sockets = await Promise.all(Array.from({ length: 16 }, () => bound('0.0.0.0')));
  let answers = 0;
  for (const s of sockets) s.on('message', () => answers++);
  const end = performance.now() + Number(seconds) * 1000;
  let sent = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 100; i++)
      sockets[sent % 16].send(question(`n${sent++}x${process.pid}.${zone}`), 53, server, nothing);
    await pause(1);
  }
  say({ sent, answers });
  process.exit(0);
}

/** TCP connections to a resolver that never finish a question. */
async function slow(server, count, seconds) {
  let opened = 0;
  let closed = 0;
  for (let i = 0; i < Number(count); i++) {
    const s = connect({ host: server, port: 53 }, () => {
      opened++;
      s.write(Buffer.from([1]));
    });
    s.on('error', nothing);
    s.on('close', () => closed++);
  }
  await pause(Number(seconds) * 1000);
  say({ opened, closed });
  process.exit(0);
}

const commands = { upload, open, flows, names, slow };
const [command, ...words] = process.argv.slice(2);
await commands[command](...words);
