/**
 * The requests of a connection of HTTP/1.0 and 1.1 (RFC 9112): the host that each asks for, and where the next one begins. What servers
 * read differently from each other (request smuggling) is refused, because the next request would begin elsewhere for the server.
 */
import { BodyLines } from './body-lines.js';
import { type AskedName, hostName, printable } from './client-hello.js';

/** A request, once its head is complete. */
export interface RequestHead {
  readonly host: AskedName;
  /** It asks for a switch to WebSocket: once the server agrees, no requests follow. */
  readonly isUpgrade: boolean;
}
export type HttpEvent =
  | { readonly kind: 'request'; readonly head: RequestHead }
  | {
      readonly kind: 'refused';
      readonly why: 'not-http' | 'malformed' | 'too-large';
      readonly detail: string;
    };

/** Bytes of one head, or of the trailers of one body. */
const MAX_HEAD = 16_384;
/** A line with the size of a chunk; servers bound its extensions as well. */
const MAX_CHUNK_LINE = 256;

type State =
  | { readonly in: 'head' }
  | { readonly in: 'body'; readonly length: number; left: number }
  | { readonly in: 'chunk-line' }
  | { readonly in: 'chunk'; readonly length: number; left: number }
  | { readonly in: 'chunk-end' }
  | { readonly in: 'trailers' }
  | { readonly in: 'refused' };

/** Offset in the stream of the next byte, and what it belongs to. */
export interface ReaderPlace {
  readonly at: number;
  readonly state: State;
  readonly lines: BodyLines['place'];
}

class Refused extends Error {
  readonly why: 'not-http' | 'malformed' | 'too-large';
  constructor(why: Refused['why'], detail: string) {
    super(detail);
    this.why = why;
  }
}

/** A stretch of the stream that decides where requests begin and what they ask for; all others are content of bodies. */
export interface Framing {
  readonly at: number;
  readonly bytes: Buffer;
}

/** Reads the stream of one connection in order. */
export class RequestReader {
  readonly #port: number;
  #state: State = { in: 'head' };
  /** Of the present request. */
  #lines = BodyLines.of('');
  /** What has come of the head or line that is not complete yet. */
  #pending = Buffer.alloc(0);
  /** Offset in the stream of what comes next. */
  #at = 0;
  /** All since the last call of `takeFraming`. */
  #framing: Framing[] = [];

  /** `port`: the one that the connection goes to. A Host with another one is refused. */
  constructor(port: number, from?: ReaderPlace) {
    this.#port = port;
    if (!from) return;
    this.#at = from.at;
    this.#state = { ...from.state };
    this.#lines = new BodyLines(from.lines);
  }

  /** For a reader that goes on from there. Undefined: within a head or a line, or what was read is refused. */
  get place(): ReaderPlace | undefined {
    const isOpen = this.decidedTo < this.#at || this.#state.in === 'refused' || this.#state.in === 'trailers';
    return !isOpen ? { at: this.#at, state: { ...this.#state }, lines: this.#lines.place } : undefined;
  }

  /** Nothing of what was read so far belongs to a request that is not complete. */
  get isBetweenRequests(): boolean {
    return this.#state.in === 'head' && this.#pending.length === 0;
  }

  /** Offset in the stream up to which bytes are decided. */
  get decidedTo(): number {
    return this.#at - this.#pending.length - this.#lines.open;
  }

  /** Bytes of a body or a chunk that need not be seen: what is left, and what has come. Undefined between them, and where lines are read. */
  get content(): { readonly left: number; readonly come: number } | undefined {
    const state = this.#state;
    if ((state.in !== 'body' && state.in !== 'chunk') || !this.#lines.isDone) return undefined;
    return { left: state.left, come: state.length - state.left };
  }

  /** Reads so many bytes of that content without seeing them. False: it has fewer, and nothing was read. */
  skip(bytes: number): boolean {
    if ((this.content?.left ?? 0) < bytes) return false;
    this.#content(bytes);
    return true;
  }

  takeFraming(): readonly Framing[] {
    const framing = this.#framing;
    this.#framing = [];
    return framing.map(({ at, bytes }) => ({ at, bytes: Buffer.from(bytes) }));
  }

  /** Reads the next bytes. After `refused` nothing more is read. */
  read(bytes: Buffer): HttpEvent[] {
    const events: HttpEvent[] = [];
    try {
      let rest = bytes;
      while (rest.length > 0 && this.#state.in !== 'refused') rest = this.#step(rest, events);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#state = { in: 'refused' };
      events.push({ kind: 'refused', why: error.why, detail: error.message });
    }
    return events;
  }

  /** Reads the beginning of `bytes`, and returns what follows. */
  #step(bytes: Buffer, events: HttpEvent[]): Buffer {
    const state = this.#state;
    if (state.in === 'body' || state.in === 'chunk') {
      const own = bytes.subarray(0, state.left);
      const read = this.#lines.read(own, own.length === state.left);
      if (read === undefined) throw new Refused('malformed', 'its body may be read as another request');
      this.#addFraming(own.subarray(0, read));
      this.#at -= read;
      this.#content(own.length);
      return bytes.subarray(own.length);
    }
    const end = this.#findEnd(state.in, bytes);
    if (end === undefined) {
      this.#keep(state.in, bytes);
      return Buffer.alloc(0);
    }
    const own = bytes.subarray(0, end);
    this.#addFraming(own);
    const text = this.#pending.length === 0 ? own : Buffer.concat([this.#pending, own]);
    this.#pending = Buffer.alloc(0);
    if (state.in === 'head') this.#head(text, events);
    else if (state.in === 'chunk-line') this.#chunkLine(text);
    else if (state.in === 'chunk-end') this.#chunkEnd(text);
    else this.#state = trailers(text);
    return bytes.subarray(end);
  }

  #content(bytes: number): void {
    const state = this.#state;
    if (state.in !== 'body' && state.in !== 'chunk') return;
    state.left -= bytes;
    this.#at += bytes;
    if (state.left === 0) this.#state = state.in === 'body' ? { in: 'head' } : { in: 'chunk-end' };
  }

  /** Where the head or line ends in `bytes`; undefined: further on. */
  #findEnd(what: State['in'], bytes: Buffer): number | undefined {
    const from = this.#pending.length;
    const all = from === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    const end = what === 'head' || what === 'trailers' ? endOfHead(all, what) : endOfLine(all);
    const limit = what === 'head' || what === 'trailers' ? MAX_HEAD : MAX_CHUNK_LINE;
    if ((end ?? all.length) > limit)
      throw new Refused('too-large', `${WHAT[what]} of more than ${limit} bytes`);
    if (end !== undefined) return end - from;
    if (what === 'head') checkBegun(all);
    return undefined;
  }

  #keep(what: State['in'], bytes: Buffer): void {
    if (what === 'chunk-end' && this.#pending.length + bytes.length > 2)
      throw new Refused('malformed', CHUNK_END);
    this.#addFraming(bytes);
    this.#pending = Buffer.concat([this.#pending, bytes]);
  }

  /** Adds the next bytes. Those that follow each other in what was read become one stretch. */
  #addFraming(own: Buffer): void {
    const at = this.#at;
    if (own.length === 0) return;
    this.#at += own.length;
    const last = this.#framing.at(-1);
    const { bytes } = last ?? {};
    if (
      !last ||
      !bytes ||
      bytes.buffer !== own.buffer ||
      bytes.byteOffset + bytes.length !== own.byteOffset
    ) {
      this.#framing.push({ at, bytes: own });
      return;
    }
    const both = Buffer.from(own.buffer, bytes.byteOffset, bytes.length + own.length);
    this.#framing[this.#framing.length - 1] = { at: last.at, bytes: both };
  }

  #head(text: Buffer, events: HttpEvent[]): void {
    const { head, body, method } = readHead(text, this.#port);
    events.push({ kind: 'request', head });
    this.#lines = BodyLines.of(method);
    if (typeof body === 'number' && body > 0) this.#lines.begin();
    if (body === 'chunked') this.#state = { in: 'chunk-line' };
    else if (body > 0) this.#state = { in: 'body', length: body, left: body };
  }

  #chunkLine(text: Buffer): void {
    const size = /^([0-9a-f]{1,8})(?:;[\x20-\x7e\t]*)?\r\n$/i.exec(text.toString('latin1'))?.[1];
    if (size === undefined || /HTTP\//i.test(text.toString('latin1')))
      throw new Refused('malformed', 'the size of a chunk is not readable');
    const left = Number.parseInt(size, 16);
    this.#state = left === 0 ? { in: 'trailers' } : { in: 'chunk', length: left, left };
    if (left > 0) this.#lines.begin();
  }

  #chunkEnd(text: Buffer): void {
    if (text.length !== 2) throw new Refused('malformed', CHUNK_END);
    this.#state = { in: 'chunk-line' };
  }
}

const CHUNK_END = 'a chunk goes on behind its size';
const WHAT: Readonly<Record<State['in'], string>> = {
  head: 'a head',
  trailers: 'trailers',
  'chunk-line': 'the size of a chunk',
  'chunk-end': 'the end of a chunk',
  body: '',
  chunk: '',
  refused: '',
};
const [CR, LF] = [13, 10];

/** Behind the first line end. A line may end with CR LF only. */
function endOfLine(bytes: Buffer): number | undefined {
  const lf = bytes.indexOf(LF);
  const cr = bytes.indexOf(CR);
  if (lf >= 0 && (lf === 0 || bytes[lf - 1] !== CR)) throw new Refused('malformed', 'a line ends without CR');
  if (cr >= 0 && cr + 1 < bytes.length && bytes[cr + 1] !== LF)
    throw new Refused('malformed', 'a CR within a line');
  return lf < 0 ? undefined : lf + 1;
}

const BLANK_LINE = Buffer.from('\r\n\r\n');
/** Behind the blank line. A head may begin with one blank line (RFC 9112 2.2), and trailers may be nothing but it. */
function endOfHead(bytes: Buffer, what: 'head' | 'trailers'): number | undefined {
  const isBlank = bytes[0] === CR && bytes[1] === LF;
  if (what === 'trailers' && isBlank) return 2;
  const at = bytes.indexOf(BLANK_LINE, what === 'head' && isBlank ? 2 : 0);
  if (at >= 0) return at + BLANK_LINE.length;
  return undefined;
}

/** A method is at most this long; what is longer, or has another byte in it, is no request. */
const METHOD = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}$/;
const METHOD_BEGUN = /^(\r?\n?|(\r\n)?[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}( .*)?)$/s;
/** Nothing that cannot become a request waits for its end. */
function checkBegun(bytes: Buffer): void {
  const text = bytes.subarray(0, 64).toString('latin1');
  if (!METHOD_BEGUN.test(text)) throw new Refused('not-http', 'it does not begin with a request of HTTP');
}

const FIELD = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):/;
/** Without the blanks around it. One pass over the text: what a client sends must not cost more than its length. */
function withoutBlanks(text: string): string {
  const isBlank = (at: number): boolean => text[at] === ' ' || text[at] === '\t';
  let [from, to] = [0, text.length];
  while (from < to && isBlank(from)) from += 1;
  while (to > from && isBlank(to - 1)) to -= 1;
  return text.slice(from, to);
}
/** Bytes that a field may have: no control characters but the tab (RFC 9110 5.5). */
const TEXT = /^[\t\x20-\x7e\x80-\xff]*$/;
type Fields = ReadonlyMap<string, readonly string[]>;

function linesOf(text: string): string[] {
  const lines = text.split('\r\n');
  for (const line of lines)
    if (!TEXT.test(line))
      throw new Refused('malformed', 'a control character, or a line that ends with CR or LF alone');
  return lines;
}

function fieldsOf(lines: readonly string[]): Fields {
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const [begin = '', name] = FIELD.exec(line) ?? [];
    if (name === undefined)
      throw new Refused(
        'malformed',
        'a line of the head is no field: a continued line, or a blank before the colon',
      );
    const known = fields.get(name.toLowerCase());
    const value = withoutBlanks(line.slice(begin.length));
    if (known) known.push(value);
    else fields.set(name.toLowerCase(), [value]);
  }
  return fields;
}

function trailers(text: Buffer): State {
  const lines = linesOf(text.toString('latin1')).slice(0, -2);
  fieldsOf(lines);
  return { in: 'head' };
}

interface Head {
  readonly head: RequestHead;
  /** Bytes of the body. */
  readonly body: number | 'chunked';
  readonly method: string;
}

function readHead(bytes: Buffer, port: number): Head {
  const text = bytes.toString('latin1');
  const [line = '', ...rest] = linesOf(text.startsWith('\r\n') ? text.slice(2) : text).slice(0, -2);
  const { method, target, minor } = requestLine(line);
  const fields = fieldsOf(rest);
  const host = hostOf(fields, target, port);
  return { head: { host, isUpgrade: isUpgrade(fields) }, body: bodyOf(fields, minor, method), method };
}

function requestLine(line: string): { method: string; target: string; minor: number } {
  const [method = '', target = '', version = '', ...more] = line.split(' ');
  const minor = /^HTTP\/1\.([01])$/.exec(version)?.[1];
  if (method === 'PRI') throw new Refused('not-http', 'HTTP/2 without TLS');
  if (more.length > 0 || minor === undefined || !METHOD.test(method) || target === '')
    throw new Refused('not-http', 'its first line is no request of HTTP/1.0 or 1.1');
  if (method === 'CONNECT') throw new Refused('malformed', 'CONNECT asks for a connection to another host');
  return { method, target, minor: Number(minor) };
}

/** The name that the request asks for: the Host line, and the target if that is a URL. */
function hostOf(fields: Fields, target: string, port: number): AskedName {
  const lines = fields.get('host') ?? [];
  if (lines.length > 1) return { kind: 'invalid', text: shown(lines.join(',')), why: 'several Host lines' };
  const [line] = lines;
  const url = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)/i.exec(target);
  if (line === undefined || line === '') return { kind: 'none' };
  const host = authority(line, port);
  if (!url) {
    if (!target.startsWith('/') && target !== '*')
      return { kind: 'invalid', text: shown(target), why: 'a target that is neither a path nor a URL' };
    return host;
  }
  const named = authority(url[2] ?? '', port);
  if (
    url[1]?.toLowerCase() !== 'http' ||
    host.kind !== 'name' ||
    named.kind !== 'name' ||
    named.name !== host.name
  )
    return { kind: 'invalid', text: shown(target), why: 'a URL that differs from the Host line' };
  return host;
}

const shown = (text: string): string => printable(Buffer.from(text, 'latin1'));

function authority(text: string, port: number): AskedName {
  const [, host = '', own] = /^([^:]*)(?::(\d{0,5}))?$/.exec(text) ?? [];
  if (host === '') return { kind: 'invalid', text: shown(text), why: 'no host name' };
  if (own !== undefined && own !== '' && own !== `${port}`)
    return { kind: 'invalid', text: shown(text), why: `a Host of another port than ${port}` };
  return hostName(Buffer.from(host, 'latin1'));
}

const MAX_LENGTH_DIGITS = 15;

function bodyOf(fields: Fields, minor: number, method: string): number | 'chunked' {
  const lengths = fields.get('content-length') ?? [];
  const codings = fields.get('transfer-encoding') ?? [];
  if (codings.length > 0) {
    if (lengths.length > 0 || codings.length > 1 || minor === 0 || codings[0]?.toLowerCase() !== 'chunked')
      throw new Refused('malformed', 'its Transfer-Encoding can be read in several ways');
    return 'chunked';
  }
  const [length] = lengths;
  if (length === undefined) return 0;
  if (lengths.length > 1 || !/^\d+$/.test(length) || length.length > MAX_LENGTH_DIGITS)
    throw new Refused('malformed', `Content-Length of a ${shown(method)} request`);
  return Number(length);
}

function isUpgrade(fields: Fields): boolean {
  const wanted = fields.get('upgrade') ?? [];
  if (fields.has('http2-settings')) throw new Refused('malformed', 'an upgrade to HTTP/2 without TLS');
  if (wanted.length === 0) return false;
  if (wanted.length > 1 || wanted[0]?.toLowerCase() !== 'websocket')
    throw new Refused('malformed', `an upgrade to ${shown(wanted.join(','))}`);
  return true;
}
