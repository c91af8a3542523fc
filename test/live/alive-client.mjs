// Asks and connects for ever, and appends each outcome to a file. Plain JavaScript: it runs inside a container.
// Arguments: FILE SUFFIX ADDRESS DENIED. Names below SUFFIX, ADDRESS:80 and port 80 of the names are permitted, DENIED is not.
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { appendFileSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';

const [file, suffix, address, denied] = process.argv.slice(2);
const EVERY_MS = 60;
const PATIENCE_MS = 4_000;
const [, resolver] = /^nameserver (\S+)$/m.exec(readFileSync('/etc/resolv.conf', 'utf8'));
const note = (kind, began, detail) =>
  appendFileSync(file, `${JSON.stringify({ kind, began, ok: detail === 'ok', detail })}\n`);

function query(name) {
  const labels = name.split('.').flatMap((l) => [l.length, ...Buffer.from(l)]);
  return Buffer.from([...randomBytes(2), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
}
const outcomeOf = (answer) =>
  (answer[3] & 15) === 0 && answer.readUInt16BE(6) > 0 ? 'ok' : `rcode ${answer[3] & 15}`;

function attempt(kind, open) {
  const began = Date.now();
  let isOver = false;
  const end = (detail) => {
    if (isOver) return;
    isOver = true;
    clearTimeout(late);
    close();
    note(kind, began, detail);
  };
  const late = setTimeout(() => end('late'), PATIENCE_MS);
  let close = () => undefined;
  close = open(end);
}

const overUdp = (name) => (end) => {
  const socket = createSocket('udp4').on('error', (e) => end(e.code));
  socket.on('message', (m) => end(outcomeOf(m)));
  socket.send(query(name), 53, resolver, (e) => e && end(e.code));
  return () => socket.close();
};
const overTcp = (name) => (end) => {
  const socket = connect(53, resolver).on('error', (e) => end(e.code));
  const message = query(name);
  socket.on('connect', () => socket.write(Buffer.concat([Buffer.from([0, message.length]), message])));
  socket.on('data', (d) => end(outcomeOf(d.subarray(2))));
  socket.on('close', () => end('closed'));
  return () => socket.destroy();
};
const http = (host) => (end) => {
  const socket = connect(80, address).on('error', (e) => end(e.code));
  socket.on('connect', () => socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));
  socket.on('data', () => end('ok'));
  socket.on('close', () => end('closed'));
  return () => socket.destroy();
};

let n = 0;
const flood = createSocket('udp4').on('error', () => undefined);
setInterval(() => {
  n += 1;
  const fresh = `n${n}-${randomBytes(3).toString('hex')}.${suffix}`;
  if (n % 4 === 0) attempt('new name', overUdp(fresh));
  if (n % 4 === 1) attempt('known name', overUdp(`known.${suffix}`));
  if (n % 4 === 2) attempt('name over tcp', overTcp(fresh));
  if (n % 4 === 3) attempt('connection', http(`known.${suffix}`));
  flood.send('denied', 5000, denied, () => undefined);
}, EVERY_MS);
