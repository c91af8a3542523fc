// Talks to an echo server as a protocol that conntrack helpers read: sends each line when the one before has come back.
// usage: helper.mjs HOST PORT JSON, with { lines, next: { host, port }, listen, text }; afterwards it connects to `next`;
// or it listens from the start, since who is expected may come at once, and sends `text` to who comes. Prints { ok }. Plain JavaScript: it runs inside containers, alone.
import { connect, createServer } from 'node:net';

const [host, port, json] = process.argv.slice(2);
const { lines, next, listen, text } = JSON.parse(json);
const LISTEN_MS = 5000;
const PATIENCE_MS = 3000;
/** The expectation stands for as long, so that the test sees it. */
const SEEN_MS = 1000;

const finish = (o) => process.stdout.write(`${JSON.stringify(o)}\n`, () => process.exit(0));
setTimeout(() => finish({ ok: false, why: 'time-out' }), PATIENCE_MS + LISTEN_MS);

function visit() {
  const data = connect(next, () => data.write(text));
  data.on('error', (e) => finish({ ok: false, why: e.code }));
  data.on('data', () => finish({ ok: true }));
  setTimeout(() => finish({ ok: false, why: 'time-out' }), PATIENCE_MS);
}

function after() {
  if (next) setTimeout(visit, SEEN_MS);
  else setTimeout(() => finish({ ok: false, why: 'nobody came' }), LISTEN_MS);
}

const server = createServer((s) => {
  s.on('error', () => s.destroy());
  s.end(text, () => finish({ ok: true }));
});
if (listen) await new Promise((listening) => server.listen(listen, '0.0.0.0', listening));

let got = '';
const left = [...lines];
const talk = connect({ host, port: Number(port) }, () => talk.write(left[0]));
talk.on('error', (e) => finish({ ok: false, why: e.code }));
talk.on('data', (d) => {
  got += d.toString('latin1');
  if (got.length < left[0].length) return;
  got = '';
  left.shift();
  if (left.length > 0) talk.write(left[0]);
  else after();
});
