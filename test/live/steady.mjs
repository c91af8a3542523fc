// A client that a restart must not disturb, in a container: what it does is done to the end or fails, and each is one line of JSON. Plain JavaScript.
import { createSocket } from 'node:dgram';
import http from 'node:http';
import https from 'node:https';

const [address, name, other, open, resolver, patience] = process.argv.slice(2);
/** By default longer than any restart: what waits must not fail by the client's patience. */
const PATIENCE_MS = Number(patience ?? 25_000);
const say = (kind, began, why) =>
  process.stdout.write(`${JSON.stringify({ kind, began, ended: Date.now(), why })}\n`);

async function attempt(kind, act) {
  const began = Date.now();
  const why = await act().then(
    () => null,
    (e) => e.code ?? e.message,
  );
  say(kind, began, why);
}
const every = (ms, kind, act) => setInterval(() => void attempt(kind, act), ms);

const get = (library, host, agent = false) =>
  new Promise((resolve, reject) => {
    const how = {
      host: address,
      path: '/',
      servername: host,
      rejectUnauthorized: false,
      headers: { host },
      agent,
    };
    const request = library.get(how, (response) => {
      response.resume();
      response.on('end', resolve);
      response.on('error', reject);
    });
    request.setTimeout(PATIENCE_MS, () => request.destroy(new Error('time-out')));
    request.on('error', reject);
  });

let asked = 0;
/** As a resolver of libc asks, again after five seconds, but with more patience: the one of Node gives up earlier. */
const resolve = (question) =>
  new Promise((resolved, reject) => {
    const id = ++asked & 0xffff;
    const labels = question.split('.').map((l) => Buffer.concat([Buffer.from([l.length]), Buffer.from(l)]));
    const head = Buffer.from([id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    const socket = createSocket('udp4');
    const end = (error) => {
      clearTimeout(timer);
      clearInterval(again);
      socket.close();
      if (error) reject(error);
      else resolved();
    };
    const timer = setTimeout(() => end(new Error('time-out')), PATIENCE_MS);
    socket.on('error', end);
    socket.on('message', (m) => end((m[3] & 15) === 0 ? undefined : new Error(`answered with ${m[3] & 15}`)));
    const message = Buffer.concat([head, ...labels, Buffer.from([0, 0, 1, 0, 1])]);
    const again = setInterval(() => socket.send(message), 5_000);
    socket.connect(53, resolver, () => socket.send(message));
  });

/** A download without an end: a line for each second in which some of it came, and one when it ends. Then another one begins. */
function stream() {
  const began = Date.now();
  let hasCome = false;
  let isOver = false;
  const timer = setInterval(() => {
    if (hasCome) say('stream', Date.now() - 1_000, null);
    hasCome = false;
  }, 1_000);
  const ended = (why) => {
    if (isOver) return;
    isOver = true;
    clearInterval(timer);
    say('stream', began, why);
    setTimeout(stream, 1_000);
  };
  http
    .get({ host: open, path: '/stream?rate=20000', agent: false }, (response) => {
      response.on('data', () => {
        hasCome = true;
      });
      response.on('error', (e) => ended(e.code));
      response.on('end', () => ended('it ended'));
    })
    .on('error', (e) => ended(e.code));
}

const isResolved = () =>
  resolve(name).then(
    () => true,
    () => false,
  );
while (!(await isResolved()));
every(200, 'tls', () => get(https, name));
every(200, 'http', () => get(http, name));
every(1_000, 'known name', () => resolve(name));
every(1_000, 'new name', () => resolve(`n${asked++}.new.${name}`));
every(300, 'wrong tls', () => get(https, other));
every(300, 'wrong http', () => get(http, other));
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
every(500, 'same connection', () => get(http, name, agent));
stream();
process.stdout.write('"begun"\n');
