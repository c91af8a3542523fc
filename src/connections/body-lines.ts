/**
 * Content of requests, read as by a server that does not read it: such a server takes the content for the next request on the connection, which
 * could name another host. Servers differ in which content they read: of GET, or behind `Expect`, many read none.
 */

/** nginx and Apache httpd read first lines of requests up to this length, Go's net/http, the longest that is known, up to the other. */
const [LONGEST, LONGEST_OF_ANY] = [8_192, 1_052_672];
const STEP = 64;
const [CR, LF] = [13, 10];
/** What servers take for blanks between words, Python's str.split() and others. */
const BLANKS = /[\t\v\f\x1c-\x20\x85\xa0]+/;
const FEWER_BLANKS = /[\t\v\f ]+/;
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const KNOWN = /^(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PRI)$/;
const VERSION = /^HTTP\//i;
const WHOLE_VERSION = /^HTTP\/\d+\.\d/i;
const VERSION_BEGUN = /^(|H|HT|HTT|HTTP|HTTP\/\d*\.?)$/i;
/** Methods that have content by their definition: servers read it. */
const HAS_CONTENT: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

type Kind = 'request' | 'blank' | 'other' | 'open' | 'counted';

const wordsOf = (line: string, blanks: RegExp): string[] => line.split(blanks).filter((word) => word !== '');

/**
 * Whether a server may take this for the first line of a request. `open`: the rest of the line decides. `counted`: only its third word
 * decides. `isWhole`: the line has ended.
 */
function kindOf(line: string, isWhole: boolean): Kind {
  const isLong = line.length > LONGEST;
  const [method, target = '', ...more] = wordsOf(line, BLANKS);
  if (method === undefined) return isLong ? 'request' : isWhole ? 'blank' : 'open';
  const isKnown = KNOWN.test(method);
  if (isKnown && (isLong || /^[/*]|:\/\//.test(target))) return 'request';
  if (isLong || !TOKEN.test(method)) return 'counted';
  const thirds = [more[0] ?? '', wordsOf(line, FEWER_BLANKS)[2] ?? ''];
  if (thirds.some((third) => WHOLE_VERSION.test(third))) return 'request';
  if (!isWhole) return 'open';
  const isOld = isKnown && target !== '' && more.length === 0;
  return isOld || VERSION.test(more.at(-1) ?? target) ? 'request' : 'other';
}

/** The words of a line, of which the third may be a version: there are servers that take any word for a method. */
interface Words {
  readonly begun: number;
  readonly isWithin: boolean;
  /** What has come of the third, while it may be a version. Undefined: it is none. */
  readonly third: string | undefined;
}
const NO_WORDS: Words = { begun: 0, isWithin: false, third: '' };

function goOn(words: Words, text: string, blanks: RegExp): Words {
  let { begun, isWithin, third } = words;
  for (const [at, part] of text.split(blanks).entries()) {
    if (at > 0) isWithin = false;
    if (third === undefined || part === '') continue;
    if (!isWithin) begun += 1;
    isWithin = true;
    if (begun === 3) third += part;
    if (begun === 3 && WHOLE_VERSION.test(third)) break;
    if (begun > 3 || !VERSION_BEGUN.test(third)) third = undefined;
  }
  return { begun, isWithin, third };
}

/** A line of which only the third word decides, by what servers take for blanks. */
interface Counted {
  readonly length: number;
  readonly words: readonly [Words, Words];
}
const thirdsOf = ({ words }: Counted): string[] => words.flatMap(({ third }) => third ?? []);

/** What of the present content is still to be read: nothing, its first line that is not blank, or all lines. */
interface LinesPlace {
  readonly reads: 'none' | 'first' | 'all';
  /** The line that has begun is of no request. */
  readonly isOther: boolean;
  readonly counted?: Counted | undefined;
  readonly hasContent: boolean;
}

export class BodyLines {
  readonly #hasContent: boolean;
  #reads: LinesPlace['reads'] = 'none';
  #isOther = false;
  /** What has come of a line that may be one of a request. */
  #line = '';
  #counted: Counted | undefined;

  /** Of the content of a request with this method. */
  static of(method: string): BodyLines {
    return new BodyLines({ reads: 'none', isOther: false, hasContent: HAS_CONTENT.has(method) });
  }
  constructor({ reads, isOther, counted, hasContent }: LinesPlace) {
    this.#hasContent = hasContent;
    this.#reads = reads;
    this.#isOther = isOther;
    this.#counted = counted;
  }

  get place(): LinesPlace {
    const [reads, isOther, counted] = [this.#reads, this.#isOther, this.#counted];
    return { reads, isOther, counted, hasContent: this.#hasContent };
  }
  /** Nothing of the content that comes next has to be seen. */
  get isDone(): boolean {
    return this.#reads === 'none';
  }
  /** Bytes that are held until their line is decided. Of a counted line this is the third word: before it no server has read a version. */
  get open(): number {
    return this.#counted
      ? Math.max(0, ...thirdsOf(this.#counted).map(({ length }) => length))
      : this.#line.length;
  }

  /**
   * Content begins, a body or a chunk. Of methods that have content, a server either reads it or takes its beginning for a request; one that
   * skips lines which are no requests could not serve any client. Of other methods all lines are read.
   */
  begin(): void {
    this.#reads = this.#hasContent ? 'first' : 'all';
    this.#isOther = false;
    this.#counted = undefined;
    this.#line = '';
  }

  /** Returns how many bytes have decided; undefined: a server may take them for a request. `isEnd`: no other content follows. */
  read(content: Buffer, isEnd: boolean): number | undefined {
    let at = 0;
    while (this.#reads !== 'none' && at < content.length) {
      // in steps that double: each evaluates the line from its beginning
      const step = content.subarray(at, at + Math.max(STEP, this.#line.length, this.#counted?.length ?? 0));
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
    const kind = this.#isOther ? 'other' : this.#kind(text, isWhole);
    if (kind === 'request') return false;
    if (kind === 'open') return true;
    this.#line = '';
    this.#counted = undefined;
    this.#isOther = !isWhole;
    if (this.#reads === 'first' && kind !== 'blank') this.#reads = 'none';
    return true;
  }

  #kind(text: string, isWhole: boolean): Kind {
    if (this.#counted) return this.#count(text, isWhole);
    this.#line += text;
    const kind = kindOf(this.#line, isWhole);
    if (kind !== 'counted') return kind;
    const line = this.#line;
    this.#line = '';
    return this.#count(line, isWhole);
  }

  #count(text: string, isWhole: boolean): Kind {
    const { length, words } = this.#counted ?? { length: 0, words: [NO_WORDS, NO_WORDS] };
    const counted: Counted = {
      length: length + text.length,
      words: [goOn(words[0], text, BLANKS), goOn(words[1], text, FEWER_BLANKS)],
    };
    this.#counted = counted;
    const thirds = thirdsOf(counted);
    if (thirds.some((third) => WHOLE_VERSION.test(third))) return 'request';
    return isWhole || thirds.length === 0 || counted.length > LONGEST_OF_ANY ? 'other' : 'open';
  }
}
