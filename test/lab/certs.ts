/** Certificates made on the fly, signed by a CA of the lab's own (through the openssl program). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, type SecureContext } from 'node:tls';
import { run } from './process.js';

const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

interface Pair {
  readonly key: Buffer;
  readonly cert: Buffer;
}
/** Served to a client that names nobody. */
export const NO_NAME = 'no-name.lab.test';

export class Certificates {
  readonly #dir: string;
  readonly #made = new Map<string, Promise<Pair>>();

  constructor(dir: string) {
    this.#dir = dir;
  }
  /** PEM of the CA, for clients. */
  get ca(): string {
    return join(this.#dir, 'ca.pem');
  }

  async start(): Promise<void> {
    const key = join(this.#dir, 'ca.key');
    const ext = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign'];
    await run(
      [
        'openssl',
        'req',
        '-x509',
        ...EC,
        '-keyout',
        key,
        '-out',
        this.ca,
        '-subj',
        '/CN=Drawbridge lab CA',
        '-days',
        '30',
        ...ext,
      ],
      { check: true },
    );
  }

  /** For the name in the ClientHello. */
  async context(serverName: string): Promise<SecureContext> {
    return createSecureContext(await this.pair(serverName));
  }

  /** Key and certificate of a name; of NO_NAME when it is no host name. */
  pair(serverName: string): Promise<Pair> {
    const name = /^[a-z0-9_.-]{1,200}$/i.test(serverName) ? serverName.toLowerCase() : NO_NAME;
    const known = this.#made.get(name);
    if (known) return known;
    const made = this.#make(name, this.#made.size);
    this.#made.set(name, made);
    return made;
  }

  async #make(name: string, serial: number): Promise<Pair> {
    const [key, cert] = [join(this.#dir, `${serial}.key`), join(this.#dir, `${serial}.pem`)];
    const signer = ['-CA', this.ca, '-CAkey', join(this.#dir, 'ca.key')];
    const subject = [
      '-subj',
      `/CN=${name.slice(0, 60)}`,
      '-addext',
      `subjectAltName=DNS:${name}`,
      '-days',
      '30',
    ];
    await run(['openssl', 'req', '-x509', ...signer, ...EC, '-keyout', key, '-out', cert, ...subject], {
      check: true,
    });
    return { key: readFileSync(key), cert: readFileSync(cert) };
  }
}
