/**
 * Content of requests, read as by a server that does not read it: such a server takes the content for the next request on the connection, which
 * could name another host. Servers differ in which content they read: of GET, or behind `Expect`, many read none.
 */

/** nginx and Apache httpd read first lines of requests up to this length. */
const LONGEST = 8_192;
const STEP = 64;
const [CR, LF] = [13, 10];
/** What servers take for blanks between words, also with Python's str.split(). */
const BLANKS = /[\t\v\f\x1c-\x20\x85\xa0]+/;
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const KNOWN = /^(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PRI)$/;
const VERSION = /^HTTP\//i;
const WHOLE_VERSION = /^HTTP\/\d+\.\d/i;
/** Methods that have content by their definition: servers read it. */
const HAS_CONTENT: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

type Kind = 'request' | 'other' | 'open';

/** Whether a server may take this for the first line of a request; `open`: its rest decides. `isWhole`: the line has ended. */
function kindOf(line: string, isWhole: boolean): Kind {
  const isLong = line.length > LONGEST;
  const words = line.slice(0, LONGEST).split(BLANKS);
  const [method, target = '', ...more] = words.filter((word) => word !== '');
  if (method === undefined) return isLong ? 'request' : isWhole ? 'other' : 'open';
  if (!TOKEN.test(method)) return 'other';
  const isKnown = KNOWN.test(method);
  if (isKnown && /^[/*]|:\/\//.test(target)) return 'request';
  if (WHOLE_VERSION.test(more[0] ?? '')) return 'request';
  if (isLong) return isKnown ? 'request' : 'other';
  if (!isWhole) return 'open';
  const isOld = isKnown && target !== '' && more.length === 0;
  return isOld || VERSION.test(more.at(-1) ?? target) ? 'request' : 'other';
}

/** What of the present content is still to be read: nothing, its first line that is not blank, or all lines. */
interface LinesPlace {
  readonly reads: 'none' | 'first' | 'all';
  /** The line that has begun is of no request. */
  readonly isOther: boolean;
  readonly hasContent: boolean;
}

export class BodyLines {
  readonly #hasContent: boolean;
  #reads: LinesPlace['reads'] = 'none';
  #isOther = false;
  /** What has come of a line that may be one of a request. */
  #line = '';

  /** Of the content of a request with this method. */
  static of(method: string): BodyLines {
    return new BodyLines({ reads: 'none', isOther: false, hasContent: HAS_CONTENT.has(method) });
  }
  constructor({ reads, isOther, hasContent }: LinesPlace) {
    this.#hasContent = hasContent;
    this.#reads = reads;
    this.#isOther = isOther;
  }

  get place(): LinesPlace {
    return { reads: this.#reads, isOther: this.#isOther, hasContent: this.#hasContent };
  }
  /** Nothing of the content that comes next has to be seen. */
  get isDone(): boolean {
    return this.#reads === 'none';
  }
  /** Bytes of a line that waits for its rest. */
  get open(): number {
    return this.#line.length;
  }

  /**
   * Content begins, a body or a chunk. Of methods that have content, a server either reads it or takes its beginning for a request; one that
   * skips lines which are no requests could not serve any client. Of other methods all lines are read.
   */
  begin(): void {
    this.#reads = this.#hasContent ? 'first' : 'all';
    this.#isOther = false;
    this.#line = '';
  }

  /** Returns how many bytes have decided; undefined: a server may take them for a request. `isEnd`: no other content follows. */
  read(content: Buffer, isEnd: boolean): number | undefined {
    let at = 0;
    while (this.#reads !== 'none' && at < content.length) {
      // in steps that double: each evaluates the line from its beginning
      const step = content.subarray(at, at + Math.max(STEP, this.#line.length));
      const end = step.findIndex((byte) => byte === CR || byte === LF);
      const length = end < 0 ? step.length : end;
      at += end < 0 ? length : length + 1;
      if (!this.#goOn(step.toString('latin1', 0, length), end >= 0, isEnd && at === content.length))
        return undefined;
    }
    if (isEnd) this.#reads = 'none';
    return at;
  }

  /** Reads on in a line. False: it may be one of a request. */
  #goOn(text: string, isEnded: boolean, isLast: boolean): boolean {
    const isWhole = isEnded || isLast;
    this.#line += text;
    const kind = this.#isOther ? 'other' : kindOf(this.#line, isWhole);
    if (kind === 'request') return false;
    if (kind === 'open') return true;
    const isBlank = isWhole && !this.#isOther && this.#line.split(BLANKS).every((word) => word === '');
    this.#line = '';
    this.#isOther = !isWhole;
    if (this.#reads === 'first' && !isBlank) this.#reads = 'none';
    return true;
  }
}
