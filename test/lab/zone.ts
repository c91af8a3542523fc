/** What the lab's DNS authority knows, and what it answers: pure but for the rotation counters. */
import { isIPv6 } from 'node:net';
import type { Answer, Packet, Question } from 'dns-packet';

/** HTTPS or SVCB data (RFC 9460); `ech` in base64. */
interface ServiceData {
  readonly priority: number;
  readonly target: string;
  readonly alpn?: readonly string[];
  readonly port?: number;
  readonly ipv4hint?: readonly string[];
  readonly ipv6hint?: readonly string[];
  readonly ech?: string;
}
/** All that one name says. A name with no records but a rule exists (NODATA). "*.x" answers for every name below x that has no rule. */
export interface NameRule {
  readonly A?: readonly string[];
  readonly AAAA?: readonly string[];
  /** Answers A and AAAA questions (followed as far as the zones go, loops once round), and its own type. */
  readonly CNAME?: string;
  readonly TXT?: readonly string[];
  readonly PTR?: readonly string[];
  readonly NS?: readonly string[];
  readonly MX?: readonly { readonly preference: number; readonly exchange: string }[];
  readonly SRV?: readonly {
    readonly priority: number;
    readonly weight: number;
    readonly port: number;
    readonly target: string;
  }[];
  readonly HTTPS?: readonly ServiceData[];
  readonly SVCB?: readonly ServiceData[];
  /** Seconds; default 60. */
  readonly ttl?: number;
  /** Give only this many of the addresses, moving on with each question. */
  readonly rotate?: number;
  readonly rcode?: 'NXDOMAIN' | 'SERVFAIL' | 'REFUSED';
  readonly delayMs?: number;
  /** Leave this many questions unanswered, from the first; -1: every one. */
  readonly lose?: number;
  /** Servers, by the address that is asked, that refuse questions for the name: the others give an answer that these do not have. */
  readonly notAt?: readonly string[];
  /** Truncate over UDP whatever the size. */
  readonly truncate?: boolean;
  /**
   * Send a forged answer before the true one: with another id, for another question, with the letters' case as it was not
   * asked, from another address; or, right in all, after the true one.
   */
  readonly forge?: 'id' | 'question' | 'case' | 'source' | 'second';
  /** What the forged answer says; default 192.0.2.66. */
  readonly forgedAddress?: string;
  /** Records beside those that were asked for, whoever's they are. */
  readonly beside?: readonly {
    readonly section: 'answers' | 'authorities' | 'additionals';
    readonly name: string;
    readonly type: 'A' | 'AAAA' | 'CNAME' | 'DNAME';
    readonly data: string;
  }[];
}
export type Zone = Readonly<Record<string, NameRule>>;

export const TYPE_NUMBERS: Readonly<Record<string, string>> = { UNKNOWN_64: 'SVCB', UNKNOWN_65: 'HTTPS' };
const WIRE_TYPE: Readonly<Record<string, string>> = { SVCB: 'UNKNOWN_64', HTTPS: 'UNKNOWN_65' };
const DEFAULT_TTL = 60;
const key = (name: string): string => name.toLowerCase().replace(/\.$/, '');

function ipv6Bytes(text: string): Buffer {
  const [head = '', tail] = text.split('::');
  const words = (s: string): string[] => (s === '' ? [] : s.split(':'));
  const left = words(head);
  const right = tail === undefined ? [] : words(tail);
  const middle = Array<string>(8 - left.length - right.length).fill('0');
  return Buffer.from(
    [...left, ...middle, ...right].flatMap((w) => [
      Number.parseInt(w, 16) >> 8,
      Number.parseInt(w, 16) & 255,
    ]),
  );
}
const addressBytes = (text: string): Buffer =>
  isIPv6(text) ? ipv6Bytes(text) : Buffer.from(text.split('.').map(Number));

function nameBytes(name: string): Buffer {
  const labels = key(name)
    .split('.')
    .filter((l) => l !== '');
  return Buffer.concat([
    ...labels.flatMap((l) => [Buffer.from([l.length]), Buffer.from(l)]),
    Buffer.from([0]),
  ]);
}
function param(id: number, value: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt16BE(id, 0);
  head.writeUInt16BE(value.length, 2);
  return Buffer.concat([head, value]);
}
const u16 = (n: number): Buffer => Buffer.from([n >> 8, n & 255]);

/** RFC 9460 2.2: priority, target, parameters in ascending order of their numbers. */
function serviceBytes(d: ServiceData): Buffer {
  const alpn = d.alpn?.flatMap((a) => [Buffer.from([a.length]), Buffer.from(a)]);
  return Buffer.concat([
    u16(d.priority),
    nameBytes(d.target),
    ...(alpn ? [param(1, Buffer.concat(alpn))] : []),
    ...(d.port === undefined ? [] : [param(3, u16(d.port))]),
    ...(d.ipv4hint ? [param(4, Buffer.concat(d.ipv4hint.map(addressBytes)))] : []),
    ...(d.ech === undefined ? [] : [param(5, Buffer.from(d.ech, 'base64'))]),
    ...(d.ipv6hint ? [param(6, Buffer.concat(d.ipv6hint.map(addressBytes)))] : []),
  ]);
}

export class Zones {
  readonly #rules = new Map<string, NameRule>();
  readonly #asked = new Map<string, number>();

  set(zone: Zone): void {
    for (const [name, rule] of Object.entries(zone)) this.#rules.set(key(name), rule);
  }
  remove(names: readonly string[]): void {
    for (const name of names) this.#rules.delete(key(name));
  }
  clear(): void {
    this.#rules.clear();
    this.#asked.clear();
  }

  /** The rule of the name, else of the nearest wildcard above it that no existing name shadows (RFC 4592). */
  find(name: string): NameRule | undefined {
    const exact = this.#rules.get(key(name));
    if (exact) return exact;
    const labels = key(name).split('.');
    for (let i = 1; i < labels.length; i++) {
      const parent = labels.slice(i).join('.');
      const wild = this.#rules.get(`*.${parent}`);
      if (wild) return wild;
      if (this.#rules.has(parent)) return undefined;
    }
    return undefined;
  }

  /** How often the name's rule has been met with this `purpose` before; counts up. */
  turn(name: string, purpose: string): number {
    const id = `${purpose} ${key(name)}`;
    const n = this.#asked.get(id) ?? 0;
    this.#asked.set(id, n + 1);
    return n;
  }

  #addresses(name: string, type: 'A' | 'AAAA', rule: NameRule): readonly string[] {
    const pool = rule[type] ?? [];
    if (rule.rotate === undefined || pool.length === 0) return pool;
    const start = this.turn(name, type) * rule.rotate;
    return Array.from(
      { length: Math.min(rule.rotate, pool.length) },
      (_, i) => pool[(start + i) % pool.length] ?? '',
    );
  }

  #records(name: string, type: string, rule: NameRule): Answer[] {
    const ttl = rule.ttl ?? DEFAULT_TTL;
    const make = (data: unknown): Answer =>
      ({ name, type: WIRE_TYPE[type] ?? type, ttl, class: 'IN', data }) as Answer;
    if (type === 'A' || type === 'AAAA') return this.#addresses(name, type, rule).map(make);
    if (type === 'HTTPS' || type === 'SVCB') return (rule[type] ?? []).map((d) => make(serviceBytes(d)));
    if (type === 'CNAME') return rule.CNAME === undefined ? [] : [make(rule.CNAME)];
    return ((rule as Readonly<Record<string, readonly unknown[] | undefined>>)[type] ?? []).map(make);
  }

  #negative(name: string): Answer {
    const labels = key(name).split('.');
    const data = {
      mname: 'ns.lab.test',
      rname: 'hostmaster.lab.test',
      serial: 1,
      refresh: 60,
      retry: 60,
      expire: 60,
      minimum: 30,
    };
    return { name: labels.slice(-2).join('.'), type: 'SOA', ttl: 30, class: 'IN', data } as Answer;
  }

  #exists(name: string): boolean {
    const below = `.${key(name)}`;
    return [...this.#rules.keys()].some((k) => k.endsWith(below));
  }

  /** The answer to one question: the chain of aliases and the records at its end, or the negative answer with SOA. */
  answer(question: Question): Pick<Packet, 'answers' | 'authorities'> & { rcode: string } {
    const type = TYPE_NUMBERS[question.type] ?? question.type;
    const answers: Answer[] = [];
    const met = new Set<string>();
    let name: string = question.name;
    while (!met.has(key(name))) {
      met.add(key(name));
      const rule = this.find(name);
      if (rule === undefined) {
        const rcode = this.#exists(name) ? 'NOERROR' : 'NXDOMAIN';
        return { rcode, answers, authorities: [this.#negative(name)] };
      }
      if (rule.rcode !== undefined) {
        return {
          rcode: rule.rcode,
          answers,
          authorities: rule.rcode === 'NXDOMAIN' ? [this.#negative(name)] : [],
        };
      }
      if (rule.CNAME === undefined || type === 'CNAME') {
        const found = this.#records(name, type, rule);
        const authorities = found.length === 0 ? [this.#negative(name)] : [];
        return { rcode: 'NOERROR', answers: [...answers, ...found], authorities };
      }
      answers.push(...this.#records(name, 'CNAME', rule));
      name = rule.CNAME;
    }
    return { rcode: 'NOERROR', answers, authorities: [] };
  }
}
