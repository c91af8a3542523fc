/** A feed server: sends what stands in BODY, misbehaves as MODE says. Usage: feed-server.mjs PORT BODY MODE */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const [port, body, mode] = process.argv.slice(2);

const WAYS = {
  good: (response) => response.end(readFileSync(body)),
  500: (response) => response.writeHead(500).end('{"status":500,"message":"Internal Server Error"}'),
  cut: (response) => {
    response.writeHead(200, { 'content-length': '99999' });
    response.write('203.0.113.9\n', () => response.destroy());
  },
  silent: () => undefined,
  inwards: (response) => response.writeHead(302, { location: 'http://169.254.169.254/' }).end(),
};

createServer((_, response) => WAYS[readFileSync(mode, 'utf8')](response)).listen(Number(port), '127.0.0.1');
