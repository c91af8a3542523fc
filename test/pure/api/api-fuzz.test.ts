/**
 * Requests that are made from the description of the API, valid and broken: none is a 5xx, each answer has a declared status and
 * fits its schema, each failure is a problem with a remedy, and a request that is refused has changed nothing.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import fc, { type Arbitrary } from 'fast-check';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { apiDocument } from '../../../scripts/api-files.js';
import { buildServer } from '../../../src/api/api-server.js';
import { listen } from '../../../src/api/listen.js';
import type { ApiDocument, Operation } from '../../../src/api/openapi.js';
import { isRecord } from '../../../src/lib/json.js';
import { denial, MemoryService, ask as shownAsk } from './double.js';

/** The same requests each time; another seed tries others. */
const SEED = Number(process.env.API_FUZZ_SEED ?? 9457);
const RUNS = Number(process.env.API_FUZZ_RUNS ?? 25);
const ROLES = ['read', 'write', 'admin'] as const;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'] as const;
const KIB = 1_024;
/** It does not end by itself. */
const STREAM = 'GET /v1/events';

const document: ApiDocument = await apiDocument();
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(
    ([method, operation]) => [`${method.toUpperCase()} ${path}`, operation] as const,
  ),
);
const errors: object[] = [];
const log = { debug() {}, info() {}, warn() {}, error: (o: object) => void errors.push(o) };
let service: MemoryService;
let server: FastifyInstance;
beforeAll(async () => {
  // A second passes with each look at the clock, so that no limit of the rate is reached.
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => (now += 1_000));
  service = new MemoryService();
  service.denied.push(denial());
  service.planned = ['# ipset', 'add x y'];
  const authenticate = (secret: string) => {
    const role = ROLES.find((known) => known === secret);
    return role && { name: role, role };
  };
  server = await buildServer({ context: service.context, log, version: '0', authenticate });
});
afterAll(async () => {
  vi.restoreAllMocks();
  await server.close();
});

/** Everything that a change moves. */
const snapshot = (): string =>
  JSON.stringify([
    [...service.store],
    service.grants,
    service.tokensMade,
    service.mode,
    service.lockdownNow,
    service.tornDown,
    service.revision,
    service.accepted,
  ]);

const ajv = new Ajv2020({ strict: false });
ajv.addSchema({ $id: 'api', components: document.components });
const compiled = new Map<string, ValidateFunction>();
/** What the body of an answer of this operation must fit; undefined: it has none. */
function schemaOf(name: string, operation: Operation, status: number): ValidateFunction | undefined {
  const declared = operation.responses[status];
  const answer =
    declared && '$ref' in declared
      ? document.components.responses[declared.$ref.split('/').at(-1) ?? '']
      : declared;
  const content = Object.values(answer?.content ?? {})[0];
  if (!content) return undefined;
  const key = `${name} ${status}`;
  const known =
    compiled.get(key) ?? ajv.compile(JSON.parse(JSON.stringify(content.schema).replaceAll('"#/', '"api#/')));
  compiled.set(key, known);
  return known;
}

/** Values that fit a schema. */
function fitting(schema: unknown): Arbitrary<unknown> {
  if (!isRecord(schema)) return fc.jsonValue();
  const { $ref, examples, anyOf, type } = schema;
  if (typeof $ref === 'string') return fitting(document.components.schemas[$ref.split('/').at(-1) ?? '']);
  if ('const' in schema) return fc.constant(schema.const);
  if (Array.isArray(anyOf)) return fc.oneof(...anyOf.map(fitting));
  const made = type === 'object' ? fittingObject(schema) : fittingPart(schema);
  return Array.isArray(examples) ? fc.oneof(fc.constantFrom(...(examples as unknown[])), made) : made;
}

function fittingPart(schema: Readonly<Record<string, unknown>>): Arbitrary<unknown> {
  const { type, pattern, minLength = 0, maxLength = 30, minimum = -1000, maximum = 100_000, items } = schema;
  if (type === 'string' && typeof pattern === 'string') return fc.stringMatching(new RegExp(pattern));
  if (type === 'string')
    return fc.string({
      minLength: Number(minLength),
      maxLength: Math.min(30, Number(maxLength)),
      unit: 'grapheme',
    });
  if (type === 'integer') return fc.integer({ min: Number(minimum), max: Number(maximum) });
  if (type === 'boolean') return fc.boolean();
  if (type === 'null') return fc.constant(null);
  if (type === 'array')
    return fc.array(fitting(items), { minLength: Number(schema.minItems ?? 0), maxLength: 3 });
  return fc.jsonValue();
}

function fittingObject({ properties, required, patternProperties }: Readonly<Record<string, unknown>>) {
  if (!isRecord(properties)) {
    const [value] = Object.values((patternProperties ?? {}) as object);
    return fc.dictionary(fc.string({ maxLength: 20 }), fitting(value), { maxKeys: 3 });
  }
  const parts = Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, fitting(value)]));
  return fc.record(parts, { requiredKeys: Array.isArray(required) ? (required as string[]) : [] });
}

/** Names that the service knows, and texts that no schema has thought of. */
const known = fc.constantFrom(
  'web',
  'abc123',
  'npm',
  'own',
  'bad',
  'ci',
  'g1',
  'registry.npmjs.org',
  '192.0.2.1',
);
/** Parameters of requests that succeed, by the tag of their operation. */
const KNOWN: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  all: { container: 'web', owner: 'ci', target: '192.0.2.1', entry: 'a.org' },
  lists: { name: 'own' },
  feeds: { name: 'bad' },
  asks: { id: '3f9c21ab' },
};
const odd = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    ' ',
    '*',
    'a/b',
    '__proto__',
    'constructor',
    '\u0000',
    '💥',
    'ﬀ.example',
    '-',
    'null',
    '0x10',
    "'; --",
  ),
  fc.integer({ min: 250, max: 5_000 }).map((n) => 'x'.repeat(n)),
);
const encoded = (text: string): string => encodeURIComponent(text.replaceAll(/\p{Cs}/gu, ''));
const segment = fc.oneof(
  { weight: 4, arbitrary: known.map(encoded) },
  { weight: 2, arbitrary: odd.map(encoded).filter((text) => !/^\.*$/.test(text)) },
  { weight: 1, arbitrary: fc.constantFrom('%', '%zz', '%00', '%c0%af', '%2f', '%252e', 'a;b=c', '+') },
);

const queryOf = ({ parameters }: Operation): Arbitrary<string> => {
  const pairs = parameters
    .filter((p) => p.in === 'query')
    .map((p) =>
      fc
        .oneof({ weight: 4, arbitrary: fitting(p.schema).map(String) }, { weight: 1, arbitrary: odd })
        .map((value) => [p.name, value] as const),
    );
  const surprise = fc.tuple(fc.constantFrom('surprise', '__proto__', 'limit', 'container', ''), odd);
  const given = fc.tuple(...pairs.map((pair) => fc.option(pair, { nil: undefined, freq: 4 })));
  return fc.tuple(given, fc.option(surprise, { nil: undefined, freq: 8 })).map(([own, more]) => {
    const all = [...own, more].filter((pair) => pair !== undefined);
    return all.length === 0
      ? ''
      : `?${all.map(([key, value]) => `${encoded(key)}=${encoded(value)}`).join('&')}`;
  });
};

interface Sent {
  readonly payload?: string;
  readonly headers: Readonly<Record<string, string>>;
}
const JSON_TYPE = { 'content-type': 'application/json' };
const asJson = (value: unknown): Sent => ({ payload: JSON.stringify(value) ?? '', headers: JSON_TYPE });

/** Bodies that fit, and others: a key more, another type, no JSON, another media type, too large, none. */
function bodyOf({ requestBody }: Operation): Arbitrary<Sent> {
  const schema = Object.values(requestBody?.content ?? {})[0]?.schema;
  const none = fc.constant<Sent>({ headers: {} });
  const fit = schema === undefined ? none : fitting(schema).map(asJson);
  const more =
    schema === undefined
      ? none
      : fc
          .tuple(fitting(schema), odd, fc.jsonValue())
          .map(([value, key, other]) => asJson(isRecord(value) ? { ...value, [key]: other } : value));
  const broken = fc.oneof(
    fc.jsonValue().map(asJson),
    fc
      .constantFrom(
        '{',
        '[1,',
        '"',
        '{"a":1}x',
        '',
        '\u0000',
        '{"__proto__":{"a":1}}',
        '{"constructor":{"prototype":1}}',
        'nul',
      )
      .map((payload) => ({ payload, headers: JSON_TYPE })),
    fc
      .constantFrom('text/plain', 'application/xml', 'application/json; charset=utf-16', 'x', '')
      .map((type) => ({ payload: '{}', headers: { 'content-type': type } })),
    fc.constant({ payload: JSON.stringify({ entry: 'x'.repeat(70_000) }), headers: JSON_TYPE }),
    none,
  );
  return fc.oneof(
    { weight: 5, arbitrary: fit },
    { weight: 1, arbitrary: more },
    { weight: 2, arbitrary: broken },
  );
}

const oddHeaders = fc.record(
  {
    'idempotency-key': fc.oneof(
      fc.uuid().map((id) => `"${id}"`),
      fc.constantFrom('"same"', 'bare', '', '"', 'a b', '"a", "b"'),
    ),
    'if-match': fc.constantFrom('"1"', '"0"', '*', '"x"', 'W/"1"', ''),
    'if-none-match': fc.constantFrom('*', '"1"', 'W/"abc", "x"', ''),
    'drawbridge-user': fc.constantFrom('ann', '\u00e9', ' '),
    'last-event-id': fc.constantFrom('1.1', 'x', ''),
    accept: fc.constantFrom('text/html', '*/*'),
  },
  { requiredKeys: [] },
);
const headers = fc.oneof({ weight: 3, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: oddHeaders });
const token = fc.oneof(
  { weight: 8, arbitrary: fc.constant('Bearer admin') },
  {
    weight: 2,
    arbitrary: fc.constantFrom('Bearer read', 'Bearer write', 'Bearer unknown', 'Basic YTpi', '', 'Bearer '),
  },
);

interface Answer {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
}
async function ask(options: InjectOptions, isStream: boolean): Promise<Answer> {
  if (!isStream) return server.inject(options);
  const answer = await server.inject({ ...options, payloadAsStream: true });
  const { statusCode, headers: sent } = answer;
  if (statusCode !== 200) {
    const chunks: Buffer[] = [];
    for await (const chunk of answer.stream()) chunks.push(Buffer.from(chunk as Uint8Array));
    return { statusCode, headers: sent, body: Buffer.concat(chunks).toString('utf8') };
  }
  answer.stream().destroy();
  return { statusCode, headers: sent, body: '' };
}

function checkProblem({ statusCode, headers: sent, body }: Answer): void {
  expect(String(sent['content-type'])).toMatch(/^application\/problem\+json/);
  const problem = JSON.parse(body);
  expect(problem.status).toBe(statusCode);
  expect(problem.type).toMatch(/^\/docs#/);
  expect(problem.errors.length).toBeGreaterThan(0);
  for (const { detail, remedy } of problem.errors) expect([detail, remedy]).not.toContain('');
}

function check(name: string, operation: Operation, answer: Answer): void {
  const { statusCode, body } = answer;
  if (statusCode >= 400 && !(statusCode === 503 && name === 'GET /readyz')) checkProblem(answer);
  expect(Object.keys(operation.responses)).toContain(String(statusCode));
  const schema = schemaOf(name, operation, statusCode);
  if (name === STREAM && statusCode === 200) return;
  if (!schema) {
    expect(body).toBe('');
    return;
  }
  const isJson = /json/.test(String(answer.headers['content-type']));
  const value: unknown = isJson ? JSON.parse(body) : body;
  schema(value);
  expect(schema.errors ?? []).toEqual([]);
}

describe.each(operations)('%s', (name, operation) => {
  const [method = '', template = ''] = name.split(' ');
  const [tag = ''] = operation.tags;
  const { example } = Object.values(operation.requestBody?.content ?? {})[0] ?? {};
  const count = template.match(/\{/g)?.length ?? 0;
  const path = fc.tuple(...Array.from({ length: count }, () => segment)).map((parts) => {
    let n = 0;
    return template.replaceAll(/\{\w+\}/g, () => parts[n++] ?? '');
  });
  /** A request that succeeds. */
  const good = {
    path: template.replaceAll(/\{(\w+)\}/g, (_, key: string) => KNOWN[tag]?.[key] ?? KNOWN.all?.[key] ?? key),
    query: `?${operation.parameters
      .filter((p) => p.in === 'query' && p.required)
      .map((p) => `${p.name}=${encoded(String(p.example))}`)
      .join('&')}`,
    body: example === undefined ? { headers: {} } : asJson(example),
    headers: {},
    token: 'Bearer admin',
  };
  const request = fc.record({ path, query: queryOf(operation), body: bodyOf(operation), headers, token });

  it('answers each request as it declares', async () => {
    const seen = new Set<number>();
    await service.putList('own', { allow: ['a.org'] }, undefined, 'the test');
    service.records.set('compose:shop/web', {
      owner: 'compose:shop/web',
      since: 1,
      gaps: [],
      starts: 1,
      dropped: 0,
      seen: [],
    });
    service.asked = [shownAsk({ token: 'Vb1c0JmXo2yq8o5a7h0Lzw' })];
    await fc.assert(
      fc.asyncProperty(request, async (r) => {
        const before = snapshot();
        const options: InjectOptions = {
          method: method as 'GET',
          url: `${r.path}${r.query}`,
          headers: { ...r.headers, ...r.body.headers, authorization: r.token },
          ...(method !== 'GET' && r.body.payload !== undefined && { payload: r.body.payload }),
        };
        const answer = await ask(options, name === STREAM);
        seen.add(answer.statusCode);
        check(name, operation, answer);
        if (answer.statusCode >= 400) expect(snapshot()).toBe(before);
      }),
      { seed: SEED, numRuns: RUNS, endOnFailure: true, examples: [[good]] },
    );
    expect(errors).toEqual([]);
    // Some fit: the operation itself was reached.
    expect({ name, seen: [...seen].filter((status) => status < 300) }).not.toEqual({ name, seen: [] });
  });
});

it('another method is a 405 with the methods that there are', async () => {
  const had = new Map<string, string[]>();
  for (const [name] of operations) {
    const [method = '', path = ''] = name.split(' ');
    had.set(path, [...(had.get(path) ?? []), method]);
  }
  for (const [path, methods] of had)
    for (const method of METHODS.filter((m) => !methods.includes(m) && m !== 'HEAD')) {
      const before = snapshot();
      const url = path.replaceAll(/\{\w+\}/g, 'web');
      const answer = await server.inject({ method, url, headers: { authorization: 'Bearer admin' } });
      expect([method, path, answer.statusCode]).toEqual([method, path, 405]);
      checkProblem(answer);
      expect(String(answer.headers.allow).split(', ')).toEqual(expect.arrayContaining(methods));
      expect(snapshot()).toBe(before);
    }
});

it('another path is a 404', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(segment, { minLength: 1, maxLength: 4 }),
      fc.constantFrom(...METHODS),
      async (parts, method) => {
        const answer = await server.inject({
          method,
          url: `/v2/${parts.join('/')}`,
          headers: { authorization: 'Bearer admin' },
        });
        expect([400, 404]).toContain(answer.statusCode);
        if (method !== 'HEAD') checkProblem(answer);
      },
    ),
    { seed: SEED, numRuns: RUNS },
  );
});

describe('on a connection', () => {
  let dir: string;
  let socketPath: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'drawbridge-raw-'));
    socketPath = join(dir, 'api.sock');
    await listen(server, { address: `unix:${socketPath}`, localSocket: socketPath, log });
  });
  afterAll(() => rm(dir, { recursive: true }));

  /** The last answer of the service before it closes the connection. */
  const exchange = (head: string): Promise<string> =>
    new Promise((resolve, reject) => {
      let answer = '';
      const socket = connect(socketPath, () => socket.write(head));
      socket.setEncoding('utf8');
      socket.on('data', (text: string) => (answer += text));
      socket.on('error', reject);
      socket.on('close', () => resolve(answer));
    });
  const HEAD = 'Host: x\r\nConnection: close\r\n';
  const JSON_HEAD = `${HEAD}content-type: application/json\r\n`;
  it.each<readonly [status: number, line: string, rest: string]>([
    [400, 'GET /v1/status HTTP/1.1', 'Connection: close\r\n\r\n'],
    [417, 'GET /v1/status HTTP/1.1', `${HEAD}Expect: 200-ok\r\n\r\n`],
    [400, 'GET /v1/status HTTP/9.9', `${HEAD}\r\n`],
    [400, 'FOO /v1/status HTTP/1.1', `${HEAD}\r\n`],
    [405, 'PROPFIND /v1/status HTTP/1.1', `${HEAD}\r\n`],
    [400, 'GET /v1/lists/%zz HTTP/1.1', `${HEAD}\r\n`],
    [404, 'OPTIONS * HTTP/1.1', `${HEAD}\r\n`],
    [431, 'GET /v1/status HTTP/1.1', `${HEAD}a: ${'x'.repeat(20_000)}\r\n\r\n`],
    [400, `GET /v1/containers/${'x'.repeat(5_000)} HTTP/1.1`, `${HEAD}\r\n`],
    [400, 'POST /v1/pause HTTP/1.1', `${JSON_HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n`],
    [
      400,
      'POST /v1/pause HTTP/1.1',
      `${JSON_HEAD}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ],
    // One byte more than the limit of the path: nothing is read.
    [413, 'POST /v1/pause HTTP/1.1', `${JSON_HEAD}Content-Length: ${64 * KIB + 1}\r\n\r\n`],
    [413, 'PUT /v1/lists/own HTTP/1.1', `${JSON_HEAD}Content-Length: ${4096 * KIB + 1}\r\n\r\n`],
    [413, 'PUT /v1/sync/ci HTTP/1.1', `${JSON_HEAD}Content-Length: ${32_768 * KIB + 1}\r\n\r\n`],
    [413, 'POST /v1/import HTTP/1.1', `${JSON_HEAD}Content-Length: ${32_768 * KIB + 1}\r\n\r\n`],
    [415, 'POST /v1/pause HTTP/1.1', `${HEAD}content-type: text/plain\r\nContent-Length: 2\r\n\r\n{}`],
    [415, 'POST /v1/pause HTTP/1.1', `${JSON_HEAD}content-encoding: gzip\r\nContent-Length: 2\r\n\r\n{}`],
    [400, 'POST /v1/pause HTTP/1.1', `${JSON_HEAD}Content-Length: 2\r\n\r\n{]`],
  ])('%i: %s', async (status, line, rest) => {
    const before = snapshot();
    const answer = await exchange(`${line}\r\n${rest}`);
    const at = answer.indexOf('\r\n\r\n');
    const type = /^content-type: *(.*)$/im.exec(answer)?.[1] ?? '';
    const statusCode = Number(answer.split(' ')[1]);
    expect(statusCode).toBe(status);
    checkProblem({ statusCode, headers: { 'content-type': type }, body: answer.slice(at + 4) });
    expect(snapshot()).toBe(before);
  });
});
