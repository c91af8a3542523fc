/** The description of the API is valid, complete and published, and its examples are what the service takes and answers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Routes } from '../../../schemas/api.js';
import { apiDocument, apiFiles } from '../../../scripts/api-files.js';
import type { ApiDocument, Operation } from '../../../src/api/openapi.js';
import { KINDS } from '../../../src/api/problems.js';
import { isRecord } from '../../../src/lib/json.js';

const ROOT = join(import.meta.dirname, '../../..');
let document: ApiDocument;
let operations: readonly (readonly [name: string, operation: Operation])[];
beforeAll(async () => {
  document = await apiDocument();
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(
      ([method, operation]) => [`${method.toUpperCase()} ${path}`, operation] as const,
    ),
  );
});

it('is valid OpenAPI 3.1', async () => {
  const { valid, errors } = await new Validator().validate({ ...structuredClone(document) });
  expect(errors ?? []).toEqual([]);
  expect(valid).toBe(true);
});

it('each file that is made from it is current (npm run schemas)', async () => {
  for (const [path, text] of await apiFiles())
    expect({ path, isCurrent: readFileSync(join(ROOT, path), 'utf8') === text }).toEqual({
      path,
      isCurrent: true,
    });
});

it('each operation has an id of its own, a text, a role, and its failures', () => {
  const ids = operations.map(([, { operationId }]) => operationId);
  expect(new Set(ids).size).toBe(ids.length);
  for (const [name, operation] of operations) {
    const { summary, description, 'x-role': role, security, parameters, responses, tags } = operation;
    expect([
      name,
      summary.length > 5,
      description.includes('role') || role === 'anyone',
      tags.length,
    ]).toEqual([name, true, true, 1]);
    expect([name, security]).toEqual([name, role === 'anyone' ? [] : [{ bearer: [role] }]]);
    const statuses = Object.keys(responses);
    expect([name, statuses.includes('429'), statuses.includes('500')]).toEqual([name, true, true]);
    const path = name.match(/\{\w+\}/g) ?? [];
    expect([name, parameters.filter((p) => p.in === 'path').map((p) => `{${p.name}}`)]).toEqual([name, path]);
    for (const p of parameters)
      expect([name, p.name, p.description]).not.toEqual([name, p.name, `the ${p.name}`]);
  }
});

it('each collection has pages', () => {
  const isPage = ({ responses }: Operation): boolean => {
    const answer = responses[200];
    const example = answer && 'content' in answer ? answer.content?.['application/json']?.example : undefined;
    return isRecord(example) && 'items' in example && 'next' in example;
  };
  const collections = operations.filter(([, operation]) => isPage(operation));
  for (const [name, { parameters }] of collections.filter(([n]) => n !== 'GET /v1/flows'))
    expect([name, parameters.map((p) => p.name)]).toEqual([
      name,
      expect.arrayContaining(['limit', 'cursor']),
    ]);
  expect(collections.length).toBeGreaterThan(7);
});

it('each change takes an idempotency key', () => {
  for (const [name, { parameters }] of operations)
    expect([name, parameters.some((p) => p.name === 'Idempotency-Key')]).toEqual([
      name,
      !name.startsWith('GET '),
    ]);
});

it('has an answer for each kind of problem', () => {
  for (const { status, title } of Object.values(KINDS))
    expect(document.components.responses[`Problem${status}`]?.description).toContain(title);
});

describe('the examples', () => {
  it('of bodies and answers fit their schemas', () => {
    const ajv = new Ajv2020({ strict: false, allErrors: true });
    ajv.addSchema({ $id: 'api', components: document.components });
    const check = (where: string, schema: unknown, example: unknown): void => {
      const text = JSON.stringify(schema).replaceAll('"#/components', '"api#/components');
      const fits = ajv.compile(JSON.parse(text));
      fits(example);
      expect({ where, errors: fits.errors ?? [] }).toEqual({ where, errors: [] });
    };
    let count = 0;
    for (const [name, { parameters, requestBody, responses }] of operations) {
      const answers = Object.entries(responses).flatMap(([status, answer]) =>
        '$ref' in answer
          ? []
          : Object.values(answer.content ?? {}).map((c) => ({ where: `${name} ${status}`, ...c })),
      );
      const bodies = Object.values(requestBody?.content ?? {}).map((c) => ({ where: `${name} body`, ...c }));
      for (const { where, schema, example } of [...answers, ...bodies])
        if (example !== undefined) {
          check(where, schema, example);
          count++;
        }
      for (const p of parameters) check(`${name} ${p.name}`, p.schema, p.example);
    }
    for (const [name, { content }] of Object.entries(document.components.responses))
      for (const { schema, example } of Object.values(content ?? {})) check(name, schema, example);
    expect(count).toBeGreaterThan(40);
  });
});

it('the types of the client are those of the description', () => {
  const mode: Routes['PUT /v1/containers/{container}/mode']['body'] = { mode: 'enforce' };
  const params: Routes['DELETE /v1/containers/{container}/grants/{grant}']['params'] = {
    container: 'web',
    grant: 'g',
  };
  const ready: Routes['GET /readyz']['response']['ready'] = true;
  // @ts-expect-error: not a mode
  const wrong: Routes['PUT /v1/containers/{container}/mode']['body'] = { mode: 'enforced' };
  // @ts-expect-error: not a route
  type Missing = Routes['GET /v1/nothing'];
  const missing: Missing | undefined = undefined;
  expect([mode, params, ready, wrong, missing]).toHaveLength(5);
});
