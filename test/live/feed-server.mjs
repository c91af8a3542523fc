/** A feed server: it sends the content of the file BODY, with the fault that the file MODE names. Usage: feed-server.mjs PORT BODY MODE [ADDRESS...] */
import { appendFileSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const [port, body, mode, ...own] = process.argv.slice(2);

const WAYS = {
  good: (response) => response.end(readFileSync(body)),
  500: (response) => response.writeHead(500).end('{"status":500,"message":"Internal Server Error"}'),
  cut: (response) => {
    response.writeHead(200, { 'content-length': '99999' });
    response.write('203.0.113.9\n', () => response.destroy());
  },
  silent: () => undefined,
  'to-own': (response) => response.writeHead(302, { location: `http://93.184.77.1:${port}/` }).end(),
  'to-local': (response) => response.writeHead(302, { location: `http://93.184.78.9:${port}/` }).end(),
  'to-public': (response) => response.writeHead(302, { location: 'http://93.184.1.1:80/' }).end(),
  inwards: (response) => response.writeHead(302, { location: 'http://169.254.169.254/' }).end(),
};

createServer((_, response) => WAYS[readFileSync(mode, 'utf8')](response)).listen(Number(port), '127.0.0.1');
/** Services at other addresses of the host. What they are asked is in the file BODY.asked. */
for (const address of own)
  createServer(({ socket }, response) => {
    appendFileSync(`${body}.asked`, `${socket.localAddress}\n`);
    response.end(readFileSync(body));
  }).listen(Number(port), address);
