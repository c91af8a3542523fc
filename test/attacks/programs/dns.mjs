// DNS as an attacker speaks it: any bytes in any place. Plain JavaScript: it runs inside containers, alone.
// usage: dns.mjs JSON, with { server, port, localPort, proto, name | labels, type, class, id, flags, edns, questions, records, tail,
// raw, wait, naive }; prints { sent, replies: [{ rcode, addresses }] }.
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';

const {
  server,
  port = 53,
  localPort = 0,
  proto = 'udp',
  wait = 1500,
  naive = false,
  ...spec
} = JSON.parse(process.argv[2]);

const u16 = (n) => Buffer.from([(n >> 8) & 255, n & 255]);
/** Labels as they are, latin1: dots, NUL and any byte may stand in them. */
const wireName = (labels) =>
  Buffer.concat([
    ...labels.map((l) =>
      Buffer.concat([Buffer.from([Buffer.from(l, 'latin1').length]), Buffer.from(l, 'latin1')]),
    ),
    Buffer.from([0]),
  ]);
const labelsOf = (q) => q.labels ?? q.name.split('.').filter((l) => l !== '');
const question = (q) => Buffer.concat([wireName(labelsOf(q)), u16(q.type ?? 1), u16(q.class ?? 1)]);
const record = (r) => {
  const data = Buffer.from(r.data, 'latin1');
  return Buffer.concat([
    wireName(labelsOf(r)),
    u16(r.type ?? 16),
    u16(1),
    Buffer.alloc(4),
    u16(data.length),
    data,
  ]);
};
/** RFC 6891: one option of a local number with any data. */
function opt(data) {
  const option = Buffer.concat([u16(65_001), u16(data.length), Buffer.from(data, 'latin1')]);
  return Buffer.concat([Buffer.from([0, 0, 41, 4, 208, 0, 0, 0, 0]), u16(option.length), option]);
}
function message(s) {
  if (s.raw !== undefined) return Buffer.from(s.raw, 'latin1');
  const questions = [s, ...(s.questions ?? [])];
  const records = s.records ?? [];
  const additional = s.edns === undefined ? [] : [opt(s.edns)];
  const id = s.id ?? Math.floor(Math.random() * 65_536);
  const counts = [questions.length, records.length, 0, additional.length].map(u16);
  return Buffer.concat([
    u16(id),
    u16(s.flags ?? 0x0100),
    ...counts,
    ...questions.map(question),
    ...records.map(record),
    ...additional,
    Buffer.from(s.tail ?? '', 'latin1'),
  ]);
}

function skipName(m, at) {
  let i = at;
  while (m[i] !== 0 && (m[i] & 0xc0) === 0) i += m[i] + 1;
  return m[i] === 0 ? i + 1 : i + 2;
}
function address(m, at, length) {
  if (length === 4) return [...m.subarray(at, at + 4)].join('.');
  const words = Array.from({ length: 8 }, (_, i) => m.readUInt16BE(at + 2 * i).toString(16));
  return new URL(`http://[${words.join(':')}]`).hostname.slice(1, -1);
}
/** The addresses of all sections: an attacker uses what is told, wherever it stands. */
function addressesOf(m) {
  const found = [];
  let at = 12;
  for (let i = 0; i < m.readUInt16BE(4); i++) at = skipName(m, at) + 4;
  const records = m.readUInt16BE(6) + m.readUInt16BE(8) + m.readUInt16BE(10);
  for (let i = 0; i < records; i++) {
    at = skipName(m, at);
    const [type, length] = [m.readUInt16BE(at), m.readUInt16BE(at + 8)];
    if (type === 1 || type === 28) found.push(address(m, at + 10, length));
    at += 10 + length;
  }
  return found;
}
function reply(m) {
  try {
    return { rcode: m[3] & 15, addresses: addressesOf(m) };
  } catch (e) {
    return { rcode: -1, addresses: [], error: e.message }; // not DNS: an echo server answers so
  }
}

const replies = [];
const finish = (extra = {}) =>
  process.stdout.write(`${JSON.stringify({ sent: true, replies, ...extra })}\n`, () => process.exit(0));
setTimeout(finish, wait);
const sent = message(spec);

if (proto === 'udp') {
  const socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
  socket.on('error', (e) => finish({ error: e.code }));
  socket.on('message', (m) => {
    // naive: whatever comes first is believed; else it has to have our id
    if (!naive && m.length >= 2 && m.readUInt16BE(0) !== sent.readUInt16BE(0)) return;
    replies.push(reply(m));
    finish();
  });
  socket.bind(localPort, () =>
    socket.connect(port, server, (e) => (e ? finish({ error: e.code }) : socket.send(sent))),
  );
} else {
  let got = Buffer.alloc(0);
  const framed = spec.raw === undefined ? Buffer.concat([u16(sent.length), sent]) : sent;
  const socket = connect({ port, host: server }, () => socket.write(framed));
  socket.on('error', (e) => finish({ error: e.code }));
  socket.on('end', () => finish());
  socket.on('data', (d) => {
    got = Buffer.concat([got, d]);
    if (got.length < 2 || got.length < 2 + got.readUInt16BE(0)) return;
    replies.push(reply(got.subarray(2)));
    finish();
  });
}
