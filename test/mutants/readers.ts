/** Readers of the check of names: TLS, HTTP, QUIC, TCP, and what they decide about the packets of one flow. */
import type { Mutant } from './mutant.js';

type By = Mutant['killedBy'];
const pure = (file: string, test: string): By => ({ file: `test/pure/connections/${file}.test.ts`, test });
/** A mutant of one file of src/connections. `change`: the text, and what takes its place. */
const of =
  (file: string) =>
  (id: string, what: string, change: readonly [from: string, to: string], killedBy: By): Mutant => ({
    ...{ id, what, file: `src/connections/${file}.ts`, killedBy },
    ...{ from: change[0], to: change[1] },
  });

const [hello, reassembly, tls] = [of('client-hello'), of('reassembly'), of('tls-flow')];
const [http, httpFlow] = [of('http-requests'), of('http-flow')];
const [initial, quic, segment] = [of('quic-initial'), of('quic-flow'), of('tcp-segment')];
const rules = of('name-rules');
const lines = of('body-lines');
const bodies = of('large-bodies');

const BODY_LINES: readonly Mutant[] = [
  http(
    'read-http-body-request',
    'a body may be a request to a server that does not read it',
    ['if (read === undefined) throw', 'if (read === -1) throw'],
    pure('http-flow', 'takes for the next request is refused of GET'),
  ),
  lines(
    'read-http-body-method',
    'of methods without content by their definition, the first line of a body decides',
    ["this.#hasContent ? 'first' : 'all'", "'first'"],
    pure('http-flow', 'behind lines that are none of a request'),
  ),
  lines(
    'read-http-body-blank',
    'a blank line at the beginning of a body decides',
    ["=== 'first' && kind !== 'blank'", "=== 'first'"],
    pure('http-flow', 'takes for the next request is refused of POST'),
  ),
  http(
    'read-http-body-held',
    'the beginning of a line of a body goes on before its end',
    [' - this.#lines.open;', ';'],
    pure('http-flow', 'in segments of any size'),
  ),
  http(
    'read-http-body-gap',
    'content behind a gap goes on before its first line was read',
    [' || !this.#lines.isDone)', ')'],
    pure('http-flow', 'behind a gap'),
  ),
  lines(
    'read-http-body-any-word',
    'a line of a body with a method that is no token, or is long, is none of a request',
    ["return 'counted';", "return 'other';"],
    pure('http-flow', 'takes for the next request is refused of GET'),
  ),
  lines(
    'read-http-body-blanks',
    'only one reading of blanks finds the third word of a line',
    ['goOn(words[1], text, FEWER_BLANKS)', 'goOn(words[1], text, BLANKS)'],
    pure('http-flow', 'takes for the next request is refused of GET'),
  ),
  lines(
    'read-http-body-behind-version',
    'a line of a body goes on when it has words behind its version',
    [
      "thirds.some((third) => WHOLE_VERSION.test(third))) return 'request';\n  if (!isWhole)",
      "false) return 'request';\n  if (!isWhole)",
    ],
    pure('http-flow', 'takes for the next request is refused of GET'),
  ),
  lines(
    'read-http-body-version-held',
    'the third word of such a line goes on before its end',
    ['Math.max(0, ...thirdsOf(this.#counted).map(({ length }) => length))', '0'],
    pure('http-flow', 'no third word of its line has begun'),
  ),
  lines(
    'read-http-body-other-process',
    'another process does not know that such a line has begun',
    ['    this.#counted = counted;\n  }', '  }'],
    pure('http-flow', 'no third word of its line has begun'),
  ),
];

const ENDS: readonly Mutant[] = [
  httpFlow(
    'read-http-end-early',
    'the end of a stream goes on before the head that it cuts',
    ['(this.#waiting > 0 ? this.#released : this.#next)', 'Number.POSITIVE_INFINITY'],
    pure('http-flow', 'within a head does not go on before the head is decided'),
  ),
  httpFlow(
    'read-http-end-behind',
    'bytes behind the end of a stream complete the head before it',
    ['if (this.#next > this.#end)', 'if (false)'],
    pure('http-flow', 'with bytes behind it refuses the flow'),
  ),
  of('connection-checks')(
    'read-http-end-unseen',
    'a connection whose beginning was not seen has no end',
    ['check instanceof HttpFlow && flow.start !== undefined', 'check instanceof HttpFlow'],
    pure('connection-checks', 'the end of a stream of HTTP waits for the head before it'),
  ),
];

const QUIC_ANSWERS: readonly Mutant[] = [
  {
    ...{
      id: 'quic-fixed-bit',
      what: 'a header without the fixed bit passes in the kernel, as a hello of Google does',
    },
    ...{ file: 'src/ruleset/checked-flows.ts', from: '@th,64,2 1 ${pass}', to: '@th,64,1 0 ${pass}' },
    killedBy: { file: 'test/attacks/names-quic.test.ts', test: 'quic-google' },
  },
  quic(
    'read-quic-unanswered',
    'short headers go on before a server of QUIC has answered',
    ['early && !this.#isAnswered', 'early && false'],
    pure('quic-flow', 'a short header goes on behind it only'),
  ),
  quic(
    'read-quic-echo',
    'what the client has encrypted counts as an answer',
    ["initialKeys(packet.version, dcid, 'server')", 'initialKeys(packet.version, dcid)'],
    pure('quic-flow', 'a short header goes on behind it only'),
  ),
  quic(
    'read-quic-any-answer',
    'anything in the handshake of a server counts as an answer to a hello',
    ['offset === 0 && data[0]', 'offset >= 0 || data[0]'],
    pure('quic-flow', 'a short header goes on behind it only'),
  ),
  quic(
    'read-quic-google',
    'a hello of a version of Google goes on',
    ["p.kind === 'short' && p.isOfGoogle", "p.kind === 'short' && false"],
    pure('quic-flow', 'no hello of a version of Google'),
  ),
];

const HELLOS: readonly Mutant[] = [
  hello(
    'read-hello-several',
    'of several server names the first counts',
    ["if (list.left > 0) return { kind: 'invalid'", "if (list.left < 0) return { kind: 'invalid'"],
    pure('client-hello', 'of which there are two is refused by name'),
  ),
  hello(
    'read-hello-twice',
    'an extension may come twice',
    ['if (seen.has(type)) throw', 'if (seen.has(-1)) throw'],
    pure('client-hello', 'an extension twice is malformed'),
  ),
  hello(
    'read-hello-number',
    'an address that is written as a number is a name',
    [' || NUMBER_LABEL.test(text)', ''],
    pure('client-hello', '0x7f.1'),
  ),
  hello(
    'read-hello-trailing-message',
    'a message may follow the hello in its record',
    ['if (gathered > wanted)', 'if (gathered < wanted)'],
    pure('client-hello', 'a message behind it in its record is malformed'),
  ),
  hello(
    'read-hello-trailing-bytes',
    'bytes may follow the extensions of a hello',
    ["  body.finished('the hello');\n", ''],
    pure('client-hello', 'bytes behind the extensions is malformed'),
  ),
  hello(
    'read-hello-split-retry',
    'a HelloRetryRequest that is split over records counts as an answer',
    ['< MESSAGE_HEADER + 2 + RETRY_RANDOM.length) return true;', '< MESSAGE_HEADER) return true;'],
    pure('client-hello', 'counts as asking when it is split'),
  ),
  hello(
    'read-hello-retry',
    'a HelloRetryRequest counts as the answer to a hello',
    ['.equals(RETRY_RANDOM);', '.equals(Buffer.alloc(0));'],
    pure('client-hello', 'asks for another hello by its random alone'),
  ),
  reassembly(
    'read-overlap',
    'other bytes may come in the place of some that were sent',
    ["        return 'conflict';", "        return 'known';"],
    pure('tls-flow', 'other bytes in an overlap'),
  ),
  reassembly(
    'read-gap',
    'a gap at the start of a stream is read as zeros',
    ['first?.from === 0 ? first.to : 0', 'first?.to ?? 0'],
    pure('tls-flow', 'is released whole, in the order of its bytes'),
  ),
  reassembly(
    'read-gap-of-one',
    'a gap of one byte counts as filled',
    ['range.from <= last.to)', 'range.from <= last.to + 1)'],
    pure('reassembly', 'a gap of one byte'),
  ),
  reassembly(
    'read-has-gap',
    'bytes behind a gap are not noticed',
    ['> this.whole.length;', '> this.#limit;'],
    pure('quic-flow', 'holds what differs, what has a gap'),
  ),
  reassembly(
    'read-before-start',
    'bytes before the start of a stream are skipped',
    [
      "if (offset < 0 || end > this.#limit) return 'beyond';",
      "if (end > this.#limit) return 'beyond';\n    if (offset < 0) return 'known';",
    ],
    pure('tls-flow', 'bytes come before it'),
  ),
  tls(
    'read-tls-early-release',
    'segments of a hello go on before all of it was evaluated',
    ['this.#held.filter(({ end }) => end <= this.#decided)', 'this.#held.filter(({ end }) => end > 0)'],
    pure('tls-flow', 'is released whole, in the order of its bytes'),
  ),
  tls(
    'read-tls-repeated',
    'a segment that is repeated goes on before its hello was evaluated',
    ["if (added === 'known' && end <= this.#decided)", "if (added === 'known')"],
    pure('tls-flow', 'may come again, before and after its release'),
  ),
  {
    ...tls(
      'read-tls-second-hello',
      'only the first hello of a client is evaluated',
      ['if (this.#hellos === 0 || type === CONTENT.handshake) {', 'if (this.#hellos === 0) {'],
      pure('tls-flow', 'the flow is refused when another hello follows'),
    ),
    also: [
      {
        file: 'src/connections/tls-flow.ts',
        from: 'new Set([CONTENT.changeCipherSpec, ALERT,',
        to: 'new Set([CONTENT.changeCipherSpec, CONTENT.handshake, ALERT,',
      },
    ],
  },
  tls(
    'read-tls-retry-unanswered',
    'after a HelloRetryRequest the next bytes of the server end the check, without a second hello',
    [' && this.#hellos > 1;', ';'],
    pure('tls-flow', 'does not verify the flow before a second hello'),
  ),
  tls(
    'read-tls-retry-cipher',
    'a change of cipher behind a HelloRetryRequest answers the second hello',
    ['if (stream[at] !== CONTENT.changeCipherSpec) count += 1;', 'count += 1;'],
    pure('tls-flow', 'verifies the flow when it is permitted and answered'),
  ),
  tls(
    'read-tls-answerable',
    'the kernel may end the check while bytes of the client wait',
    ['return this.#held.length === 0 && this.#hellos', 'return this.#hellos'],
    pure('tls-flow', 'only while no byte of the client waits'),
  ),
  tls(
    'read-tls-after-refusal',
    'a flow that was refused is verified by an answer of its server',
    ['    if (this.#refusal) return this.#outcome([], [segment.id]);\n', ''],
    pure('tls-flow', 'nothing is released any more'),
  ),
  tls(
    'read-tls-server-conflict',
    'a server may replace its HelloRetryRequest by another answer',
    ["this.#server.add(offset, room) === 'conflict')", "this.#server.add(offset, room) === 'beyond')"],
    pure('tls-flow', 'the server replaces its answer'),
  ),
  tls(
    'read-tls-expire-rest',
    'data of a client that were behind a permitted hello when it was verified end the connection',
    ['if (this.#hellos > 0 && !this.#isRetry) return this.#expireRest();', ''],
    pure('tls-flow', 'is dropped, not refused'),
  ),
];

const REQUESTS: readonly Mutant[] = [
  http(
    'read-http-two-hosts',
    'of two Host lines the first counts',
    ['if (lines.length > 1) return { kind', 'if (lines.length < 0) return { kind'],
    pure('http-flow', 'two hosts'),
  ),
  http(
    'read-http-smuggling',
    'Content-Length next to Transfer-Encoding is ignored',
    ['if (lengths.length > 0 || codings.length > 1', 'if (codings.length > 1'],
    pure('http-flow', 'both kinds of length'),
  ),
  http(
    'read-http-two-lengths',
    'of two lengths the first counts',
    ['if (lengths.length > 1 || !', 'if (!'],
    pure('http-flow', 'two lengths'),
  ),
  http(
    'read-http-url',
    'a URL may name another host than the Host line',
    ['    named.name !== host.name\n', '    false\n'],
    pure('http-flow', 'a URL of another host'),
  ),
  http(
    'read-http-partial',
    'the beginning of a head goes on before its Host was read',
    ['this.#at - this.#pending.length', 'this.#at'],
    pure('http-flow', 'requests that go on not before their end'),
  ),
  {
    ...http(
      'read-http-bare-lf',
      'the size of a chunk may end with LF alone',
      ['if (lf >= 0 && (lf === 0 || bytes[lf - 1] !== CR))', 'if (lf === 0)'],
      pure('http-flow', 'a size that ends with LF'),
    ),
    also: [
      {
        file: 'src/connections/http-requests.ts',
        from: '\\t]*)?\\r\\n$/i',
        to: '\\t]*)?\\r?\\n$/i',
      },
    ],
  },
  httpFlow(
    'read-http-other-bytes',
    'a head may be replaced after it was read',
    ['if (!this.#isSame(offset, again))\n', 'if (!this.#isSame(offset, again.subarray(0, 0)))\n'],
    pure('http-flow', 'a head in the place of the first one'),
  ),
  httpFlow(
    'read-http-floor',
    'a head that is no longer kept may be replaced',
    ['if (offset < this.#floor) return false;', ''],
    pure('http-flow', 'a head that is no longer kept'),
  ),
  httpFlow(
    'read-http-websocket',
    'any answer of the server ends the check of a request for WebSocket',
    ['/^HTTP\\/1\\.1 101 /', '/^HTTP\\/1\\.1 /'],
    pure('http-flow', 'goes on with requests when the server does not agree'),
  ),
  httpFlow(
    'read-body-end',
    'the last bytes of a body may pass with the beginning of the next request',
    ['Math.min(left - LARGEST_SEGMENT, MOST_PASSABLE)', 'Math.min(left, MOST_PASSABLE)'],
    pure('http-flow', 'up to a MiB before its end'),
  ),
  httpFlow(
    'read-body-short',
    'each head of a request with a body changes a set of the kernel',
    ['come < BEGUN || ', ''],
    pure('http-flow', 'once a MiB of it has come'),
  ),
  httpFlow(
    'read-body-waiting',
    'a body may pass that is behind a gap',
    ['this.#waiting > 0 || !this.#reader.skip', '!this.#reader.skip'],
    pure('http-flow', 'keeps its order behind segments that wait'),
  ),
  http(
    'read-body-gap',
    'a gap that ends behind a body counts as part of it',
    ['if ((this.content?.left ?? 0) < bytes) return false;', ''],
    pure('http-flow', 'when the first segments come in another order'),
  ),
  bodies(
    'body-container',
    'one container takes all places of uploads that pass',
    [' && all.filter((p) => p.container === container).length < MOST.ofOne', ''],
    pure('large-bodies', 'of one container some uploads pass at once'),
  ),
  bodies(
    'body-stays',
    'sequence numbers of a body pass after its end',
    ['if (known) this.end(flow.key);', ''],
    pure('large-bodies', 'it ends when the end of the body was read'),
  ),
  bodies(
    'body-next',
    'after a permitted request, another connection of the same ends passes on the bytes of an upload',
    ['this.#kernel.remove(known.stretch);', ''],
    { file: 'test/attacks/names-http.test.ts', test: 'host-upload-reopen-later' },
  ),
  bodies(
    'body-broken',
    'what the kernel refuses to take away goes on passing',
    ['    this[Symbol.dispose]();\n    this.#log', '    this.#log'],
    pure('large-bodies', 'when the kernel refuses a change'),
  ),
  httpFlow(
    'read-http-websocket-split',
    'the status of the server may begin in the middle',
    ['if (at <= this.#answer.length && at >= 0)', 'if (at >= 0)'],
    pure('http-flow', 'is not verified by content that looks like an answer'),
  ),
];

const DATAGRAMS: readonly Mutant[] = [
  initial(
    'read-quic-forged',
    'an Initial packet that was not encrypted with its keys is read',
    ['return undefined; // another key, or a forged packet', 'return { frames, number };'],
    pure('quic-flow', 'open what they sealed, and nothing that was changed'),
  ),
  initial(
    'read-quic-padding',
    'what follows padding in a datagram is not read',
    ['if (isPadding && datagram', 'if (!isPadding && datagram'],
    pure('quic-flow', 'an Initial behind padding'),
  ),
  initial(
    'read-quic-frames',
    'frames behind an unknown one are not read',
    [
      '} else throw new MalformedMessage(`a frame of type ${type} in an Initial packet`);',
      '} else return found;',
    ],
    pure('quic-flow', 'a frame that has no place there behind a permitted hello'),
  ),
  quic(
    'read-quic-any-hello',
    'one permitted hello releases the datagrams of all connections of the port',
    ['const isReady = this.#connections.every(', 'const isReady = this.#connections.some('],
    pure('quic-flow', 'connections that push out one'),
  ),
  quic(
    'read-quic-version',
    'a connection ID may begin again in another version',
    ['c.dcid.equals(dcid) && !c.versions.has(version)', 'c.dcid.equals(dcid) && c.versions.size === 0'],
    pure('quic-flow', 'begins again in another version after Version Negotiation'),
  ),
  quic(
    'read-quic-past',
    'the hello of a connection that is no longer kept may be replaced',
    ["if (this.#past.has(dcid.toString('hex'))) return undefined;", ''],
    pure('quic-flow', 'other bytes for a connection that was permitted'),
  ),
  quic(
    'read-quic-gap',
    'a permitted hello counts although another one has begun behind a gap',
    ['connection.allowed = !connection.hello.hasGap;', 'connection.allowed = true;'],
    pure('quic-flow', 'a second hello that begins behind a gap'),
  ),
  quic(
    'read-quic-unknown',
    'an Initial packet with unknown keys goes on, next to a permitted connection',
    [
      "if (outcome === 'unknown' && this.#connections.length > 0) return this.#outcome([], [id]);",
      "if (outcome === 'unknown' && this.#connections.length > 0) return this.#outcome([id]);",
    ],
    pure('quic-flow', 'an Initial packet with keys that no packet has shown'),
  ),
  quic(
    'read-quic-verified',
    'after its handshake a client may begin another connection unseen',
    ['if (this.#hasEnded && isVerified && this.#held', 'if (isVerified && this.#held'],
    pure('quic-flow', 'goes on after it was forgotten, but begins no other connection'),
  ),
  segment(
    'read-tcp-hops',
    'a segment that dies on its way counts',
    ['return hops < MIN_HOPS ?', 'return hops < 0 ?'],
    pure('tcp-segment', 'is doubtful with few hops'),
  ),
  segment(
    'read-tcp-checksum',
    'a segment with a wrong checksum counts',
    ['isWithout || hasChecksum', 'true || hasChecksum'],
    pure('tcp-segment', 'is doubtful with a wrong checksum'),
  ),
  segment(
    'read-tcp-trailer',
    'bytes behind the IP packet are read as content',
    ['said !== bytes.length', 'said > bytes.length'],
    pure('tcp-segment', 'is doubtful when its header tells another length'),
  ),
];

const NAME_RULES: readonly Mutant[] = [
  rules(
    'read-rule-proto',
    'an entry for TCP permits the name over QUIC',
    ['classHas(c, to.proto, to.port)', 'classHas(c, c.proto, to.port)'],
    pure('name-rules', 'a.cdn.example over udp/443 is refused'),
  ),
  rules(
    'read-rule-threat',
    'a listed name that an entry permits is permitted',
    ['  if (hit) return refuse(', '  if (hit && !entries.length) return refuse('],
    pure('name-rules', 'a name that a threat feed lists is refused'),
  ),
  rules(
    'read-rule-ech-unknown',
    'an encrypted hello goes on when the keys of its name cannot be looked up',
    ["if (keys !== 'unknown' && !keys.has(configId))", "if (keys === 'unknown' || !keys.has(configId))"],
    pure('name-rules', 'waits for the record of its name, and is refused'),
  ),
  rules(
    'read-rule-ech-free',
    'the record of a name in a hello is looked up though no entry permits the name',
    ['if (!isPermitted) return', 'if (false) return'],
    pure('name-rules', 'never make the record of a name looked up'),
  ),
  {
    ...{ id: 'keys-any-name', what: 'the record of a name is queried for a container that may not query it' },
    ...{ file: 'src/dns/published-keys.ts', from: 'mayQuery ? await', to: 'true ? await' },
    killedBy: { file: 'test/pure/dns/published-keys.test.ts', test: 'and of no other one' },
  },
  {
    ...{ id: 'keys-decision', what: 'the service may query the record of any name, for any container' },
    ...{
      file: 'src/dns/dns-service.ts',
      from: ".kind === 'forward';\n    this.keys",
      to: '.kind !== undefined;\n    this.keys',
    },
    also: [
      { file: 'src/connections/name-rules.ts', from: 'if (!isPermitted) return', to: 'if (false) return' },
    ],
    killedBy: { file: 'test/attacks/dns-tunnels.test.ts', test: 'dns-hello' },
  },
  rules(
    'read-rule-ech-any',
    'ech=allow of one entry permits encrypted hellos of all names',
    ["e.flags.includes('ech=allow') && matches(e, ruling.name)", "e.flags.includes('ech=allow')"],
    pure('name-rules', 'is refused if it is for a key of the server'),
  ),
  rules(
    'read-rule-self',
    'an address as server name is permitted, as it is as Host',
    ["asked.kind === 'invalid' && reason === 'host' && isAddress", "asked.kind === 'invalid' && isAddress"],
    pure('name-rules', 'permit the address itself as Host, and no other one'),
  ),
];

export const READERS: readonly Mutant[] = [
  HELLOS,
  REQUESTS,
  BODY_LINES,
  ENDS,
  DATAGRAMS,
  QUIC_ANSWERS,
  NAME_RULES,
].flat();
