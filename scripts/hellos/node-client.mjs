/** Requests of Node for scripts/record-hellos: node-client.mjs http|tls URL. */
import http from 'node:http';
import https from 'node:https';

const [kind, url] = process.argv.slice(2);
const agent =
  kind === 'tls'
    ? new https.Agent({ rejectUnauthorized: false })
    : new http.Agent({ keepAlive: true, maxSockets: 1 });

/** Sends one request, with its body in pieces, and reads the answer. */
function send(method, path, headers, ...pieces) {
  return new Promise((resolve, reject) => {
    const request = (kind === 'tls' ? https : http).request(new URL(path, url), { method, headers, agent });
    request.on('response', (response) => response.resume().on('end', resolve));
    request.on('error', reject);
    for (const piece of pieces) request.write(piece);
    request.end();
  });
}

await send('GET', '/', {});
if (kind === 'http') {
  await send('POST', '/chunked', {}, 'first', 'second'.repeat(300), 'third');
  await send('POST', '/length', { 'Content-Length': 6 }, 'abcdef');
  await send('POST', '/continue', { Expect: '100-continue', 'Content-Length': 4 }, 'wait');
  await send('OPTIONS', '/', {});
}
agent.destroy();
