/** The states of a check of names: the table, what checks of each protocol do with it, and docs/kernel.md. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CHECK_EVENTS,
  CHECK_STATES,
  type CheckState,
  eventOf,
  isNameless,
  stateAfter,
} from '../../../src/connections/check-states.js';
import { NO_PACKET, type Outcome, type Segment } from '../../../src/connections/flow-check.js';
import { HttpFlow } from '../../../src/connections/http-flow.js';
import { QuicFlow } from '../../../src/connections/quic-flow.js';
import { TlsFlow } from '../../../src/connections/tls-flow.js';
import { cut, GOOD, ONE_NAME, repeated, shuffled } from '../../fuzz/flow-model.js';
import { Random } from '../../fuzz/random.js';
import {
  cryptoFrame,
  helloFor,
  helloMessage,
  initialPacket,
  serverHello,
  serverNames,
} from './hello-maker.js';

const START = 0xffff_fff0;
const SERVER = 5_000;
const SERVER_HELLO = Buffer.concat([Buffer.from('160303002a020000260303', 'hex'), Buffer.alloc(36, 1)]);
const NAMES = [GOOD, GOOD, GOOD, 'evil.example'];
const head = (name: string, more = ''): Buffer =>
  Buffer.from(`GET / HTTP/1.1\r\nHost: ${name}\r\n${more}\r\n`);
const WEBSOCKET = 'Upgrade: websocket\r\nConnection: Upgrade\r\n';
type Check = TlsFlow | HttpFlow | QuicFlow;

/** Steps of one flow, at random: what its client sends in pieces, repeated and out of order, answers of its server, and time. */
interface Conversation {
  readonly check: Check;
  readonly steps: readonly (() => Outcome | undefined)[];
}
let ids = 0;
const segmentsOf = (check: TlsFlow | HttpFlow, bytes: Buffer, random: Random, from: Segment['from']) => {
  const sent = cut(bytes, random, 6);
  const all = random.below(3) === 0 ? shuffled(repeated(bytes, sent, random), random) : sent;
  return all.map(({ offset, bytes: payload }) => () => {
    const [base, ack] = from === 'client' ? [START, SERVER] : [SERVER, START];
    return check.take({ id: ++ids, from, seq: (base + offset) >>> 0, ack, payload }, 0);
  });
};
const conversations = {
  tls: (random: Random): Conversation => {
    const check = new TlsFlow(ONE_NAME, START);
    const client = segmentsOf(check, helloFor(random.pick(NAMES)), random, 'client');
    const server = segmentsOf(check, SERVER_HELLO, random, 'server');
    return {
      check,
      steps: random.below(5) === 0 ? shuffled([...client, ...server], random) : [...client, ...server],
    };
  },
  http: (random: Random): Conversation => {
    const check = new HttpFlow(ONE_NAME, 80, START);
    const asks = random.below(2) === 0;
    const heads = asks
      ? head(random.pick(NAMES), WEBSOCKET)
      : Buffer.concat([1, 2, 3].map(() => head(random.pick(NAMES))));
    const answer = Buffer.from(`HTTP/1.1 ${asks ? 101 : 200} OK\r\n\r\n`);
    const client = segmentsOf(check, heads, random, 'client');
    return { check, steps: [...client, ...segmentsOf(check, answer, random, 'server')] };
  },
  quic: (random: Random): Conversation => {
    const check = new QuicFlow(ONE_NAME);
    const dcid = Buffer.from('8394c8f03e515708', 'hex');
    const hello = helloMessage(serverNames(random.pick(NAMES)));
    const client = cut(hello, random, 3).map(
      ({ offset, bytes }, number) =>
        () =>
          check.take(
            { id: ++ids, payload: initialPacket({ dcid, number, frames: cryptoFrame(offset, bytes) }) },
            0,
          ),
    );
    const reply = { dcid: Buffer.alloc(8, 3), keyId: dcid, side: 'server', frames: serverHello } as const;
    const answer = () => check.answer({ id: ++ids, payload: initialPacket(reply) });
    const short = () => check.take({ id: ++ids, payload: Buffer.alloc(60, 0x41) }, 0);
    return { check, steps: [...shuffled(client, random), answer, short, short] };
  },
};

describe.each(Object.entries(conversations))('a check of %s', (_, make) => {
  it('takes no step that the table does not have, and tells the kernel what the table says (property)', () => {
    const reached = new Set<CheckState>();
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        const random = new Random(seed);
        const { check, steps } = make(random);
        let state: CheckState = 'begun';
        const step = (outcome: Outcome | undefined): void => {
          if (!outcome) return;
          const before = state;
          state = stateAfter(state, outcome);
          reached.add(state);
          const released = outcome.release.filter((id) => id !== NO_PACKET);
          if (released.length > 0) {
            expect(CHECK_STATES[state].kernel as readonly string[]).toContain(outcome.state);
            expect(isNameless(state)).toBe(false); // nothing of a client goes on before a name was permitted
          }
          if (before === 'refused') expect(released).toEqual([]);
        };
        for (const next of steps) {
          if (random.below(40) === 0) step(check.expire(1e9));
          if (random.below(40) === 0 && !(check instanceof QuicFlow))
            step(check.refuse('doubt', { id: ++ids, ack: 0 }));
          step(next());
        }
        step(check.expire(1e9));
      }),
      { numRuns: 400 },
    );
    expect(reached).toContain('permitted');
    expect(reached).toContain('refused');
    if (_ !== 'quic') expect(reached).toContain('verified');
  });
});

it('a step that the table does not have is an error', () => {
  const verified: Outcome = { release: [1], drop: [], state: 'verified' };
  expect(eventOf('permitted', verified)).toBe('answered');
  for (const state of ['unseen', 'begun', 'reading', 'refused'] as const)
    expect(() => stateAfter(state, verified)).toThrow(/state .* has met answered/);
});

it('docs/kernel.md has the same tables', () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/kernel.md'), 'utf8');
  const states = Object.entries(CHECK_STATES).map(
    ([name, { means, kernel, waits }]) => `| \`${name}\` | ${means} | ${kernel.join(', ')} | ${waits} |`,
  );
  const events = Object.values(CHECK_EVENTS).map(
    ({ when, from, to, does }) => `| ${when} | ${from.join(', ')} | \`${to}\` | ${does} |`,
  );
  const table = (...lines: readonly string[]): string => lines.join('\n');
  expect(page).toContain(
    table(
      '| state | it means | connmark | what waits for the service |',
      '| --- | --- | --- | --- |',
      ...states,
    ),
  );
  expect(page).toContain(
    table('| event | from | to | what is done |', '| --- | --- | --- | --- |', ...events),
  );
});
