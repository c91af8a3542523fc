/** A request that waits for a sign of the test. */
import type { Container } from '../lab/container.js';
import { waitFor } from '../lab/process.js';

/**
 * Opens a connection, and sends a request on it once the file /tmp/go0-NAME exists, and again once /tmp/go1-NAME does. What becomes of it
 * is shown by files as well.
 */
const LATER = `
const { existsSync, writeFileSync } = require('node:fs');
const [name, host, text] = process.argv.slice(1);
const socket = require('node:net').connect({ host, port: 80 });
const wait = (file, then, left = 600) =>
  existsSync(file) ? then() : left > 0 ? setTimeout(() => wait(file, then, left - 1), 50) : socket.destroy();
let answers = 0;
const next = () => wait('/tmp/go' + answers + '-' + name, () => socket.write(text.replaceAll('|', '\\r\\n')));
socket.on('connect', () => {
  writeFileSync('/tmp/open-' + name, '');
  next();
});
socket.on('data', () => {
  writeFileSync('/tmp/answered' + answers++ + '-' + name, '');
  next();
});
socket.on('error', (e) => writeFileSync('/tmp/failed-' + name, e.code));
socket.on('close', () => process.exit(0));
`;
type Sign = 'open' | 'answered0' | 'answered1' | 'failed';
export class LateRequest {
  readonly #container: Container;
  readonly #name: string;

  constructor(container: Container, name: string, to: { readonly host: string; readonly address: string }) {
    this.#container = container;
    this.#name = name;
    const text = `GET /${name} HTTP/1.1|Host: ${to.host}||`;
    void container.exec(['node', '-e', LATER, name, to.address, text], { check: false, timeoutMs: 60_000 });
  }

  async has(what: Sign): Promise<void> {
    await waitFor(`${this.#name}: ${what}`, async () => {
      const file = `/tmp/${what}-${this.#name}`;
      return (await this.#container.exec(['test', '-e', file], { check: false })).code === 0;
    });
  }
  /** Send the request for the first time, or again. */
  async go(time: 0 | 1 = 0): Promise<void> {
    await this.#container.exec(['touch', `/tmp/go${time}-${this.#name}`]);
  }
}
