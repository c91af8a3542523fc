// What clients in containers run that are programs of Node: one command, a line of output. Plain JavaScript: it runs there alone.
import http from 'node:http';
import https from 'node:https';

const moduleOf = (url) => (url.startsWith('https:') ? https : http);
const get = (url, options) =>
  new Promise((resolve, reject) => {
    const request = moduleOf(url).get(url, options, (res) => {
      let body = '';
      res.on('data', (d) => {
        body += d;
      });
      res.on('end', () => resolve(body));
    });
    request.on('error', reject);
  });

const programs = {
  fetch: async (url) => (await fetch(url)).text(),
  get: (url) => get(url, { agent: false }),

  /** Ten requests on one connection, some with bodies. */
  alive: async (url) => {
    const agent = new (moduleOf(url).Agent)({ keepAlive: true, maxSockets: 1 });
    const ports = new Set();
    const bodies = new Set();
    for (let n = 0; n < 10; n++) {
      const body = await new Promise((resolve, reject) => {
        const request = moduleOf(url).request(n % 2 ? url.replace('content', 'upload') : url, {
          agent,
          method: n % 2 ? 'POST' : 'GET',
        });
        request.on('socket', (socket) => socket.once('connect', () => ports.add(socket.localPort)));
        request.on('error', reject);
        request.on('response', (res) =>
          res
            .setEncoding('utf8')
            .toArray()
            .then((all) => resolve(all.join('')), reject),
        );
        request.end(n % 2 ? 'x'.repeat(100_000 * n) : undefined);
      });
      if (n % 2 === 0) bodies.add(body);
      else bodies.add(JSON.parse(body).length === 100_000 * n ? 'whole' : body);
    }
    agent.destroy();
    return `${ports.size} connection: ${[...bodies].join(', ')}`;
  },

  /** So many connections at once. */
  many: async (url, count) => {
    const all = await Promise.allSettled(
      Array.from({ length: Number(count) }, () => get(url, { agent: false })),
    );
    const kinds = new Map();
    for (const { value, reason } of all) {
      const kind = value ?? reason.code;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    if (!kinds.has(all[0].value)) process.exitCode = 1;
    return JSON.stringify(Object.fromEntries(kinds));
  },

  websocket: (url) =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(url);
      socket.onopen = () => socket.send(`echo of ${url}`);
      socket.onmessage = ({ data }) => {
        socket.close();
        resolve(data);
      };
      socket.onerror = ({ message }) => reject(new Error(message));
    }),
};

const [name, ...words] = process.argv.slice(2);
try {
  process.stdout.write(`${await programs[name](...words)}\n`);
} catch (error) {
  process.stdout.write(`${error.cause?.code ?? error.code ?? error.message}\n`);
  process.exitCode = 1;
}
process.exit();
