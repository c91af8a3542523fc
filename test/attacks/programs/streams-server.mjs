// Node's servers of HTTP and TLS, whose log is the judge: streams-server.mjs FOLDER ADDRESS...; a line of JSON for each request and server name.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';

const [, , folder, ...addresses] = process.argv;
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
function answer(request, response) {
  const hosts = request.rawHeaders.filter((_, i, all) => i % 2 === 1 && /^host$/i.test(all[i - 1]));
  say({ port: request.socket.remotePort ?? 0, target: request.url, hosts, status: '200' });
  request.on('error', () => undefined);
  request.resume();
  response.end('answered');
}
const keys = { cert: readFileSync(`${folder}/cert.pem`), key: readFileSync(`${folder}/key.pem`) };
let left = addresses.length * 2;
for (const address of addresses) {
  const plain = createServer(answer);
  const secure = createTlsServer(
    {
      ...keys,
      SNICallback: (name, done) => {
        say({ port: 0, sni: name });
        done(null);
      },
    },
    answer,
  );
  for (const [server, port] of [
    [plain, 80],
    [secure, 443],
  ]) {
    server.on('clientError', (_error, socket) => socket.destroy());
    server.on('tlsClientError', (_error, socket) => socket.destroy());
    server.listen(port, address, 512, () => {
      left -= 1;
      if (left === 0) say({ listening: true });
    });
  }
}
