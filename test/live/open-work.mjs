// Runs inside a container: node work.mjs KIND=HOST:PORT… A line of JSON each quarter of a second.
// stream: data of the other side; http: of a response; echo: a byte each 100 ms, and back; quiet: a connection on which neither side sends;
// new: a connection each 200 ms; dns=NAME: a query each second, to the resolver of the container; serve=PORT: a line each 100 ms to each client.
import { Resolver } from 'node:dns/promises';
import { connect, createServer } from 'node:net';

const work = {};
const now = () => Date.now();

function open(kind, host, port) {
  const one = { opened: 0, bytes: 0, last: 0, gap: 0, end: null };
  const s = connect({ host, port });
  const moved = (bytes) => {
    if (one.last > 0) one.gap = Math.max(one.gap, now() - one.last);
    one.bytes += bytes;
    one.last = now();
  };
  s.on('connect', () => {
    one.opened += 1;
    one.port = s.localPort;
    if (kind === 'http') s.write('GET /stream?rate=200 HTTP/1.1\r\nHost: web.test\r\n\r\n');
    if (kind === 'echo') setInterval(() => s.writable && s.write('x'), 100);
  });
  s.on('end', () => (one.end ??= 'EOF'));
  s.on('data', (data) => moved(data.length));
  s.on('error', (e) => (one.end ??= e.code));
  s.on('close', () => (one.end ??= 'FIN'));
  return one;
}

function tryOften(host, port) {
  const all = { done: 0, slowest: 0, failures: [] };
  setInterval(() => {
    const at = now();
    const s = connect({ host, port });
    s.setTimeout(20_000, () => s.destroy(Object.assign(new Error('late'), { code: 'TIMEOUT' })));
    s.on('connect', () => {
      all.done += 1;
      all.slowest = Math.max(all.slowest, now() - at);
      s.destroy();
    });
    s.on('error', (e) => all.failures.push({ at, code: e.code }));
  }, 200);
  return all;
}

function ask(name) {
  const all = { done: 0, slowest: 0, failures: [] };
  setInterval(async () => {
    const at = now();
    try {
      await new Resolver({ timeout: 5_000, tries: 2 }).resolve4(name);
      all.done += 1;
      all.slowest = Math.max(all.slowest, now() - at);
    } catch (e) {
      all.failures.push({ at, code: e.code });
    }
  }, 1_000);
  return all;
}

function serve(port) {
  const all = { clients: 0, ends: [] };
  createServer((s) => {
    all.clients += 1;
    const timer = setInterval(() => s.write('a line\n'), 100);
    s.on('error', (e) => all.ends.push(e.code));
    s.on('close', () => clearInterval(timer));
  }).listen(port, '0.0.0.0');
  return all;
}

for (const word of process.argv.slice(2)) {
  const [kind, to] = word.split('=');
  const [host, port] = to.split(':');
  if (kind === 'dns') work[word] = ask(to);
  else if (kind === 'serve') work[word] = serve(Number(to));
  else if (kind === 'new') work[word] = tryOften(host, Number(port));
  else work[word] = open(kind, host, Number(port));
}
setInterval(() => console.log(JSON.stringify({ at: now(), work })), 250);
