/** Which bytes of uploads the kernel lets pass, and when it does no longer. */
import { expect, it } from 'vitest';
import { openFlow } from '../../../src/connections/flow-table.js';
import { HttpFlow } from '../../../src/connections/http-flow.js';
import { LargeBodies } from '../../../src/connections/large-bodies.js';
import type { Stretch } from '../../../src/kernel/netlink/passed-bytes.js';
import { identityMark } from '../../../src/ruleset/marks.js';
import { member, shape } from '../ruleset/sample.js';

const MiB = 2 ** 20;
const START = 1_000;
const subject = member(1, 'good.example', 'enforce');

function started(fails: () => boolean = () => false) {
  const passing: Stretch[] = [];
  const warnings: string[] = [];
  const kernel = {
    add: (stretch: Stretch) => {
      if (fails()) throw new Error('of the kernel');
      passing.push(stretch);
    },
    remove: (stretch: Stretch) => {
      if (fails()) throw new Error('of the kernel');
      passing.splice(passing.indexOf(stretch), 1);
    },
    [Symbol.dispose]: () => void passing.splice(0),
  };
  const log = { warn: (_: object, text: string) => void warnings.push(text) };
  const bodies = new LargeBodies(kernel, shape.marks, log);
  const upload = (sourcePort: number, length: number, container = subject.id) => {
    const ends = {
      ...{ proto: 'tcp' as const, source: '172.18.0.2', sourcePort },
      ...{ address: '93.184.7.1', port: 80 },
    };
    const judge = {
      hello: () => ({ allow: false as const, refusal: { reason: 'host' as const, name: '', detail: '' } }),
      request: () => ({ allow: true as const, name: '', entry: '' }),
    };
    const check = new HttpFlow(judge, 80, START);
    const flow = openFlow(ends, { container, check, start: START }, 0);
    let at = 0;
    const send = (payload: Buffer, skipped = 0, now = 0): void => {
      at += skipped;
      check.take({ id: at, from: 'client', seq: (START + at) >>> 0, ack: 0, payload }, now);
      at += payload.length;
      bodies.follow(flow, subject, now);
    };
    send(Buffer.from(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${length}\r\n\r\n`));
    const head = at;
    send(Buffer.alloc(MiB, '{ } - '));
    return { flow, send, head, next: () => (START + at) >>> 0 };
  };
  return { bodies, passing, warnings, upload };
}

it('the middle of a large body passes, of this container and connection; nothing of a small one', () => {
  const { passing, upload } = started();
  upload(1, 4 * MiB);
  expect(passing).toEqual([]);
  const { next } = upload(2, 9 * MiB);
  const identity = identityMark(shape.marks, subject.identity);
  const ends = { source: '172.18.0.2', sourcePort: 2, address: '93.184.7.1' };
  expect(passing).toEqual([{ ...ends, identity, seq: next(), length: 7 * MiB }]);
});

it('it ends when the end of the body was read, before sequence numbers come again', () => {
  const { passing, upload } = started();
  const { send } = upload(1, 9 * MiB);
  send(Buffer.alloc(1), 7 * MiB);
  expect(passing).toEqual([]);
});

it('of a longer one, one stretch at a time passes', () => {
  const { passing, upload } = started();
  const { send, next } = upload(1, 3 * 2 ** 30);
  expect(passing).toMatchObject([{ length: 2 ** 30 }]);
  send(Buffer.alloc(1), 2 ** 30);
  expect(passing).toMatchObject([{ seq: next(), length: 2 ** 30 }]);
});

it('segments that were queued before change nothing; after its time-out it begins again', () => {
  const { passing, upload } = started();
  const { send } = upload(1, 90 * MiB);
  const [first] = passing;
  send(Buffer.alloc(100));
  expect(passing).toEqual([first]);
  send(Buffer.alloc(100), 0, 60_000);
  expect(passing).toMatchObject([{ length: 88 * MiB - 200 }]);
});

it('it ends before another connection of its ends begins', () => {
  const { bodies, passing, upload } = started();
  const { flow } = upload(1, 9 * MiB);
  bodies.end(flow.key);
  expect(passing).toEqual([]);
  bodies.end(flow.key);
});

it('of one container some uploads pass at once, and of the host some more', () => {
  const { passing, upload } = started();
  for (let port = 1; port <= 80; port++) upload(port, 9 * MiB);
  expect(passing).toHaveLength(64);
  for (let port = 1_000; port < 2_000; port++) upload(port, 9 * MiB, `other ${port}`);
  expect(passing).toHaveLength(512);
});

it('nothing of a container in the host network passes', () => {
  const { bodies, passing, upload } = started();
  const { flow } = upload(1, 9 * MiB);
  bodies.end(flow.key);
  bodies.follow(flow, { ...subject, host: { cgroups: [] } }, 0);
  bodies.follow(flow, undefined, 0);
  expect(passing).toEqual([]);
});

it('when the kernel refuses a change, all that passes ends, and nothing passes any more', () => {
  let isBroken = false;
  const { bodies, passing, warnings, upload } = started(() => isBroken);
  const { flow } = upload(1, 9 * MiB);
  upload(2, 9 * MiB);
  isBroken = true;
  bodies.end(flow.key);
  expect(passing).toEqual([]);
  isBroken = false;
  upload(3, 9 * MiB);
  expect(passing).toEqual([]);
  expect(warnings).toHaveLength(1);
});
