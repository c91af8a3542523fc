import { isRecord } from '../../lib/json.js';
import type { Context } from '../context.js';
import { KINDS } from '../problems.js';

const STYLE =
  'body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}' +
  'code{font-family:ui-monospace,monospace}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}' +
  '@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8cf}}';

/** A page without scripts or anything from elsewhere, made from the OpenAPI document. */
export function docsRoutes({ server }: Context): void {
  server.get('/openapi.json', { schema: { hide: true }, config: { cost: 5 } }, () => server.swagger());
  server.get('/docs', { schema: { hide: true }, config: { cost: 5 } }, (_request, reply) => {
    reply.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'");
    return reply.type('text/html; charset=utf-8').send(page(server.swagger().paths ?? {}));
  });
}

function page(paths: object): string {
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => row(method.toUpperCase(), path, operation)),
  );
  const kinds = Object.entries(KINDS).map(
    ([kind, { status, title }]) =>
      `<tr id="${kind}"><td><code>${kind}</code><td>${status}<td>${escapeHtml(title)}`,
  );
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>Drawbridge API</title><style>${STYLE}</style>` +
    '<h1>Drawbridge API</h1><p>The whole of it, with every shape: <a href="/openapi.json">/openapi.json</a>.' +
    `<h2>Operations</h2><table><tr><th>Method<th>Path<th>What it does${operations.join('')}</table>` +
    '<h2>Problems</h2><p>Failures are problem details (RFC 9457); <code>errors</code> says what, where and what to do.' +
    `<table><tr><th>Type<th>Status<th>Meaning${kinds.join('')}</table></html>`
  );
}

function row(method: string, path: string, operation: unknown): string {
  const summary = isRecord(operation) && typeof operation.summary === 'string' ? operation.summary : '';
  return `<tr><td><code>${method}</code><td><code>${escapeHtml(path)}</code><td>${escapeHtml(summary)}`;
}

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ESCAPES[c] ?? c);
}
