// Writes down every text that comes, over TCP and UDP, IPv4 and IPv6, and echoes it. Plain JavaScript: it runs alone.
// usage: listen.mjs PORT… [--proxy PORT]   the proxy: "HOST PORT\n" in front, then it relays
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';

const words = process.argv.slice(2);
const say = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);
const quiet = (s) => s.on('error', () => s.destroy());

const i = words.indexOf('--proxy');
const proxy = i < 0 ? undefined : Number(words.splice(i, 2)[1]);
for (const port of words.map(Number)) {
  createServer((s) => {
    quiet(s).on('data', (d) => {
      say({ tcp: port, from: s.remoteAddress, text: d.toString() });
      s.write(d);
    });
  }).listen({ port, host: '::' }, () => say({ listening: port }));
  const udp = createSocket('udp6');
  udp.on('message', (m, peer) => {
    say({ udp: port, from: peer.address, text: m.toString() });
    udp.send(m, peer.port, peer.address, () => undefined);
  });
  udp.bind(port, () => say({ listening: port }));
}
if (proxy !== undefined)
  createServer((s) => {
    quiet(s).once('data', (d) => {
      const [line, ...rest] = d.toString().split('\n');
      const [host, port] = line.split(' ');
      const out = quiet(connect({ host, port: Number(port) }, () => out.write(rest.join('\n'))));
      out.pipe(s).pipe(out);
      out.on('close', () => s.destroy());
    });
  }).listen({ port: proxy, host: '::' }, () => say({ listening: proxy }));
