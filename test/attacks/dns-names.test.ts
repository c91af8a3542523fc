/** Records that nobody asked for, answers by somebody else, and names that look like permitted ones. */
import { ask, type Query } from './dns.js';
import { ALLOW, BOTH, beside, forged, lying, name, PORT, ZONE } from './lies.js';
import { type Attempt, asked, attackSuite, seen, type Technique } from './technique.js';

const NOT_OURS = 'only the queried name and its aliases are learned, from the answer section';
const FORGED = 'id, port, letter case and source must all be those of the query';
const NOT_PLAIN = 'names of other bytes than letters, digits, "-" and "_" match no entry';
const OTHER = 'names are compared whole, label by label';

const naming = (
  query: (a: Attempt) => Query,
  reached: Technique['reached'] = asked,
): Pick<Technique, 'families' | 'attack' | 'reached'> => ({
  families: BOTH,
  attack: (a) => ask(a, query(a)),
  reached,
});
/** In the question that left, byte by byte. */
const inQuestion = (text: (a: Attempt) => string) => (a: Attempt) =>
  seen(a, { dport: 53, payloadIncludes: text(a) });

attackSuite(
  'DNS records and names',
  {
    attacker: { labels: { 'drawbridge.allow': ALLOW } },
    prepare: (lab) => lab.dns.set({ '*.denied.test': { A: ['93.184.90.1'] } }),
  },
  [
    {
      id: 'answers-additional',
      title: 'an address in the additional section',
      stoppedBy: NOT_OURS,
      ...lying({
        rule: (a) => ({ TXT: ['x'], beside: beside(a, 'additionals', name(a)) }),
      }),
    },
    {
      id: 'answers-authority',
      title: 'an address in the authority section',
      stoppedBy: NOT_OURS,
      ...lying({
        rule: (a) => ({ TXT: ['x'], beside: beside(a, 'authorities', name(a)) }),
      }),
    },
    {
      id: 'answers-stranger',
      title: 'an address of another name in the answer section',
      stoppedBy: NOT_OURS,
      ...lying({
        rule: (a) => ({ TXT: ['x'], beside: beside(a, 'answers', `other.${ZONE}`) }),
      }),
    },
    {
      id: 'answers-dname',
      title: 'an address behind a DNAME without the alias that it implies',
      stoppedBy: NOT_OURS,
      ...lying({
        rule: (a) => ({
          TXT: ['x'],
          beside: [
            { section: 'answers', name: ZONE, type: 'DNAME', data: 'elsewhere.test' },
            ...beside(a, 'answers', `${a.tag}.elsewhere.test`),
          ],
        }),
      }),
    },
    {
      id: 'answers-hint',
      title: 'an address hint in an HTTPS record',
      stoppedBy: 'hints are taken out and not learned',
      ...lying({
        rule: (a) => ({
          HTTPS: [
            {
              priority: 1,
              target: '',
              ...(a.family === 'v4' ? { ipv4hint: [a.target] } : { ipv6hint: [a.target] }),
            },
          ],
        }),
        query: () => ({ type: 65 }),
      }),
    },
    {
      id: 'answers-service-target',
      title: 'the address of the target of a service record, with its answer',
      stoppedBy: NOT_OURS,
      ...lying({
        rule: (a) => ({
          SRV: [{ priority: 1, weight: 1, port: PORT, target: `${a.tag}.elsewhere.test` }],
          beside: beside(a, 'additionals', `${a.tag}.elsewhere.test`),
        }),
        query: () => ({ type: 33 }),
      }),
    },
    {
      id: 'answers-forged-id',
      title: 'a forged answer with a guessed id',
      stoppedBy: FORGED,
      ...forged('id'),
    },
    {
      id: 'answers-forged-question',
      title: 'a forged answer to another question',
      stoppedBy: FORGED,
      ...forged('question'),
    },
    {
      id: 'answers-forged-case',
      title: 'a forged answer without the letter case of the query',
      stoppedBy: FORGED,
      ...forged('case'),
    },
    {
      id: 'answers-forged-source',
      title: 'a forged answer from another address',
      stoppedBy: FORGED,
      ...forged('source'),
    },
    {
      id: 'answers-forged-second',
      title: 'a second answer behind the true one',
      stoppedBy: 'the first valid answer ends the query: its port is closed',
      ...forged('second'),
    },
    {
      id: 'name-dot-in-label',
      title: 'a dot within a label, so that the text is that of a permitted name',
      stoppedBy: NOT_PLAIN,
      ...naming(
        (a) => ({ labels: [name(a).replace('.test', ''), 'test'] }),
        inQuestion((a) => name(a).replace('.test', '')),
      ),
    },
    {
      id: 'name-nul',
      title: 'a NUL byte behind what looks like a permitted name',
      stoppedBy: NOT_PLAIN,
      ...naming(
        (a) => ({ labels: ['answers', `test\0${a.tag}`] }),
        inQuestion((a) => a.tag),
      ),
    },
    {
      id: 'name-escape',
      title: 'a backslash at the end of a label',
      stoppedBy: NOT_PLAIN,
      ...naming(
        (a) => ({ labels: [`${a.tag}\\`, 'answers', 'test'] }),
        inQuestion((a) => `${a.tag}\\`),
      ),
    },
    {
      id: 'name-bytes',
      title: 'a permitted name with a look-alike letter in raw UTF-8',
      stoppedBy: NOT_PLAIN,
      ...naming(
        (a) => ({ labels: [a.tag, '\u00d0\u00b0nswers', 'test'] }),
        inQuestion((a) => a.tag),
      ),
    },
    {
      id: 'name-homograph',
      title: 'a permitted name with a look-alike letter (IDN homograph)',
      stoppedBy: OTHER,
      ...naming((a) => ({ name: `${a.tag}.xn--nswers-3nf.test` })),
    },
    {
      id: 'name-longer',
      title: 'a name that ends or begins as a permitted one does',
      stoppedBy: OTHER,
      ...naming((a) => ({ name: `${a.tag}.not${ZONE}` })),
    },
    {
      id: 'name-case',
      title: 'a denied name in other letters’ case',
      stoppedBy: OTHER,
      ...naming((a) => ({ name: `${a.tag.toUpperCase()}.DENIED.Test` })),
    },
    {
      id: 'name-trailing-dot',
      title: 'a denied name with a dot at its end',
      stoppedBy: OTHER,
      families: ['v4'],
      attack: (a) => a.attacker.probe('http', `http://${a.tag}.denied.test./`),
      reached: asked,
    },
  ],
);
