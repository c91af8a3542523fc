/** Server-sent events (HTML, 9.2), as GET /v1/events sends them. */

import type { IncomingMessage } from 'node:http';
import { errorCode } from '../lib/problem.js';

export interface ReadEvent {
  readonly id: string;
  readonly kind: string;
  readonly data: unknown;
}

/** The events of a response, until it ends. */
export async function* eventsIn(response: IncomingMessage): AsyncGenerator<ReadEvent> {
  let rest = '';
  for await (const chunk of untilItBreaks(response.setEncoding('utf8'))) {
    const blocks = `${rest}${chunk}`.split('\n\n');
    rest = blocks.pop() ?? '';
    for (const block of blocks) {
      const event = eventOf(block);
      if (event) yield event;
    }
  }
}

/** A stream ends, too, when the service is killed. */
async function* untilItBreaks(stream: IncomingMessage): AsyncGenerator<string> {
  try {
    for await (const chunk of stream) yield String(chunk);
  } catch (e) {
    if (!stream.destroyed || errorCode(e) !== 'ECONNRESET') throw e;
  }
}

/** A block of a stream of server-sent events; undefined: a comment. */
function eventOf(block: string): ReadEvent | undefined {
  const fields = new Map(
    block.split('\n').map((line) => [line.split(': ', 1)[0] ?? '', line.slice(line.indexOf(': ') + 2)]),
  );
  const [kind, data] = [fields.get('event'), fields.get('data')];
  return kind === undefined || data === undefined
    ? undefined
    : { id: fields.get('id') ?? '', kind, data: JSON.parse(data) };
}
