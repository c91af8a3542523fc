/** What leaves the service: sentences without markup, signed requests, records that fit their schemas. */
import { createHmac } from 'node:crypto';
import type { Static } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import fc from 'fast-check';
import { describe, expect, expectTypeOf, it } from 'vitest';
import {
  EVENT_DATA_SCHEMAS,
  EVENT_KINDS,
  type EventData,
  EventRecordSchema,
} from '../../../src/events/service-events.js';
import {
  jsonBody,
  messageId,
  messageOf,
  ocsfOf,
  plain,
  recordOf,
  requestOf,
  sentenceOf,
  signature,
  slackEscape,
  syslogOf,
} from '../../../src/notify/formats.js';
import { ALL, eventOf, FLOW } from './events.js';

const bodyOf = (text: string): Record<string, unknown> => JSON.parse(text) as Record<string, unknown>;

describe('sentences', () => {
  it('every kind has one', () => {
    expect(ALL.map(({ kind }) => kind)).toEqual(EVENT_KINDS);
    expect(ALL.map((event) => sentenceOf(event).title)).toEqual([
      'web was denied evil.example (192.0.2.7):443/tcp',
      'web was denied evil.example (192.0.2.7):443/tcp',
      'web asks for new.example (192.0.2.8):443/tcp',
      'web: start',
      'list npm (folder) refused',
      'feed drop: failed',
      'coverage of web fell to partial',
      'repaired',
      'the canary found a fault in the enforcement',
    ]);
  });

  it.each([
    [{ name: null, address: '2001:db8::7', proto: 'udp' }, '[2001:db8::7]:443/udp'],
    [{ address: '', proto: 'dns', port: 53 }, 'evil.example'],
    [{ name: null, proto: 'icmp', port: 0 }, '192.0.2.7/icmp'],
  ] as const)('a destination %o is %s', (more, shown) => {
    expect(sentenceOf(eventOf('flow', { ...FLOW, ...more })).title).toBe(`web was denied ${shown}`);
  });

  it('no text of a container or of DNS ends a line, turns the direction or is invisible', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
        const event = eventOf('flow', { ...FLOW, container: text, name: text, reason: text });
        const { title, text: more } = sentenceOf(event);
        expect(`${title}${more}`).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
      }),
    );
    expect(plain('a\r\nb\u202Ec\u200Bd\u2028e')).toBe('a b c d e');
    expect(plain('x'.repeat(1000))).toHaveLength(256);
  });
});

describe('requests', () => {
  const message = messageOf('host1', [eventOf('flow', { ...FLOW, container: '<!channel>&*x*' })]);

  it('json is signed as Standard Webhooks has it', () => {
    const secret = `whsec_${Buffer.from('a key of twenty-four bytes').toString('base64')}`;
    const { headers, body, url } = requestOf(
      { kind: 'json', url: 'https://h/x' },
      message,
      secret,
      1_893_456_000,
    );
    expect(url).toBe('https://h/x');
    expect(headers).toMatchObject({
      'webhook-id': message.id,
      'webhook-timestamp': '1893456000',
      'drawbridge-event': message.id,
    });
    const key = Buffer.from('a key of twenty-four bytes');
    const expected = createHmac('sha256', key).update(`${message.id}.1893456000.${body}`).digest('base64');
    expect(headers['webhook-signature']).toBe(`v1,${expected}`);
    expect(bodyOf(body)).toMatchObject({ type: 'drawbridge.flow', node: 'host1', data: { verdict: 'deny' } });
  });

  /** The example of the specification's libraries (standard-webhooks, libraries/javascript). */
  it('a signature is that of the reference libraries', () => {
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    const signed = signature(secret, 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1_614_265_330, '{"test": 2432232314}');
    expect(signed).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it('without a secret nothing is signed, and an id has no full stop', () => {
    expect(requestOf({ kind: 'json', url: 'https://h/x' }, message, undefined, 1).headers).not.toHaveProperty(
      'webhook-signature',
    );
    expect(messageId('web.example', ['1.2', '1.3', '1.4'])).toMatch(/^evt_[0-9a-f]{8}_1-2_1-4$/);
  });

  it('slack gets plain text without mentions, links and markup', () => {
    const { url, body } = requestOf({ kind: 'slack', url: '' }, message, 'https://hooks.slack.com/x', 1);
    expect(url).toBe('https://hooks.slack.com/x');
    expect(body).not.toContain('<!channel>');
    expect(bodyOf(body)).toMatchObject({ mrkdwn: false, link_names: false, unfurl_links: false });
    expect(bodyOf(body).blocks).toContainEqual({
      type: 'section',
      text: expect.objectContaining({
        type: 'plain_text',
        text: expect.stringContaining('&lt;!channel&gt;&amp;*x*'),
      }),
    });
    expect(slackEscape('a<b>&c')).toBe('a&lt;b&gt;&amp;c');
  });

  it('ntfy gets JSON at the root of the server, gotify at /message, each with its token', () => {
    const ntfy = requestOf({ kind: 'ntfy', url: 'https://n.example/base/alerts' }, message, 'tk_1', 1);
    expect(ntfy.url).toBe('https://n.example/base/');
    expect(ntfy.headers.authorization).toBe('Bearer tk_1');
    expect(bodyOf(ntfy.body)).toMatchObject({ topic: 'alerts', priority: 3 });
    const gotify = requestOf({ kind: 'gotify', url: 'https://g.example/push/' }, message, 'A1', 1);
    expect(gotify.url).toBe('https://g.example/push/message');
    expect(gotify.headers['x-gotify-key']).toBe('A1');
  });

  it('a digest counts by kind and container, and shows what waits for a person first', () => {
    const many = [
      ...Array.from({ length: 40 }, (_, i) => eventOf('flow', { ...FLOW, container: `c${i % 30}` })),
      ...ALL,
    ];
    const digest = messageOf('host1', many);
    expect(digest.title).toBe(
      '49 events (flow 41, first-contact 1, ask 1, container 1, list 1, feed 1, coverage 1, repair 1, canary 1)',
    );
    expect(digest.text).toContain('coverage of web fell to partial');
    expect(digest.text).toContain('and 44 more');
    const { data } = bodyOf(jsonBody(digest)) as {
      data: { kinds: object; containers: object; first: unknown[] };
    };
    expect(Object.keys(data.containers)).toHaveLength(21); // twenty and the others
    expect(data.first).toHaveLength(5);
    expect(messageOf('host1', many).id).toBe(digest.id);
  });
});

it('a digest shows one event of each container before the second of any of the same weight, and says what was left out', () => {
  const ask = ALL.find(({ kind }) => kind === 'ask')?.data;
  const asks = Array.from({ length: 50 }, (_, n) =>
    eventOf('ask', { ...ask, container: n === 49 ? 'quiet' : 'loud', port: n + 1 } as never),
  );
  const digest = messageOf('host1', asks, ['loud', 'loud', '']);
  expect(digest.text).toContain('quiet asks for');
  expect(digest.text.split('\n').at(-1)).toBe('left out, because too many came: loud 2, (the service) 1');
  expect(digest.data).toMatchObject({ count: 50, leftOut: 3 });
  expect(messageOf('host1', asks.slice(0, 1), ['loud']).text).toMatch(
    /\nleft out, because too many came: loud 1$/,
  );
});

describe('records', () => {
  it('every kind of event fits the published schema', () => {
    for (const event of ALL)
      expect([...Value.Errors(EventRecordSchema, recordOf('host1', event))]).toEqual([]);
    expect(Value.Check(EventRecordSchema, { ...recordOf('host1', ALL[0] as never), kind: 'ask' })).toBe(
      false,
    );
  });

  it('the payloads have the types of their schemas', () => {
    type Payloads = { [K in keyof EventData]: Static<(typeof EVENT_DATA_SCHEMAS)[K]> };
    type Writable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer E)[] ? E[] : T[K] };
    expectTypeOf<{ [K in keyof EventData]: Writable<EventData[K]> }>().toExtend<Payloads>();
    expect(Object.keys(EVENT_DATA_SCHEMAS)).toEqual(EVENT_KINDS);
  });

  it('a line of syslog has the header of RFC 5424, and one line', () => {
    const event = eventOf('flow', { ...FLOW, reason: 'a\nb' });
    const line = syslogOf('höst 1', event, recordOf('x', event), 42);
    expect(line).toMatch(/^<29>1 2030-01-01T00:00:00\.000Z h_st_1 drawbridge 42 flow - \{"_schema"/);
    expect(line).not.toContain('\n');
  });

  /** Attributes of class 4001 in OCSF 1.2.0 (events/network, profiles security_control, host, objects/endpoint, rule). */
  it('a connection as Network Activity has the attributes that OCSF requires, and known ones only', () => {
    const known = [
      ...[
        'activity_id',
        'activity_name',
        'category_uid',
        'category_name',
        'class_uid',
        'class_name',
        'type_uid',
      ],
      ...['type_name', 'severity_id', 'severity', 'time', 'message', 'action_id', 'action', 'disposition_id'],
      ...[
        'disposition',
        'status_detail',
        'metadata',
        'device',
        'src_endpoint',
        'dst_endpoint',
        'connection_info',
      ],
      ...['app_name', 'firewall_rule', 'traffic'],
    ];
    for (const verdict of ['allow', 'deny', 'would-deny', 'threat', 'ask'] as const) {
      const record = ocsfOf('host1', eventOf('flow', { ...FLOW, verdict, entry: 'evil.example', list: 'l' }));
      expect(known).toEqual(expect.arrayContaining(Object.keys(record ?? {})));
      const { activity_id } = record as { activity_id: number };
      expect(record).toMatchObject({
        class_uid: 4001,
        category_uid: 4,
        type_uid: 400_100 + activity_id,
        time: 1_893_456_000_000,
        metadata: { version: '1.2.0', product: { name: 'Drawbridge', vendor_name: 'Drawbridge' } },
        src_endpoint: { name: 'web' },
        dst_endpoint: { ip: '192.0.2.7', hostname: 'evil.example', port: 443 },
        connection_info: { direction_id: 2, protocol_num: 6, protocol_ver_id: 4 },
        firewall_rule: { name: 'evil.example', type: 'entry', category: 'l' },
      });
    }
    expect(ocsfOf('host1', eventOf('flow', FLOW))).toMatchObject({ action_id: 2, disposition_id: 2 });
    const resolved = { ...FLOW, proto: 'dns', address: '', port: 53 };
    expect(ocsfOf('host1', eventOf('flow', resolved))).toMatchObject({
      dst_endpoint: { hostname: 'evil.example', port: 53 },
      connection_info: { direction_id: 2, direction: 'Outbound' },
      app_name: 'dns',
    });
    expect(ALL.slice(1).map((event) => ocsfOf('host1', event))).toEqual(ALL.slice(1).map(() => undefined));
  });
});
