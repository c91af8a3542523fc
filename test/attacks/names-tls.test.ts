/** Hellos that ask for what is not permitted, or hide what they ask for. */
import {
  encryptedHello,
  extension,
  helloFor,
  helloMessage,
  padding,
  records,
  serverNames,
} from '../pure/connections/hello-maker.js';
import { BOTH, GOOD, type NameAttack, namesSuite, OTHER, type Try } from './names.js';
import { RETRY } from './names-hellos.js';
import { bytes, u8, u16 } from './wire.js';

const NAME = 'a hello must name what an entry permits on the port';
const READ = 'a hello that servers read in different ways refuses the flow';

/** Text that the server finds in the hello, where the name cannot have it. */
const note = (t: Try): Buffer => extension(0x7a7a, Buffer.from(t.tag));
const first =
  (make: (t: Try) => Buffer) =>
  async (t: Try): Promise<void> => {
    const c = await t.open();
    c.stream(make(t));
  };
const hello = (make: (t: Try) => readonly Buffer[]) => first((t) => records(helloMessage(...make(t))));
const ALERT = bytes(u8(21, 3, 3), u16(2), u8(1, 112));
const CONFIG_ID = 9;
/** RFC 9849 4: version, length, and a configuration whose first byte is its number. */
const echConfigs = (id: number): string => {
  const name = Buffer.from('front.example');
  const contents = bytes(
    u8(id),
    u16(0x20, 32),
    Buffer.alloc(32, 4),
    u16(4, 1, 1),
    u8(0, name.length),
    name,
    u16(0),
  );
  const config = bytes(u16(0xfe0d, contents.length), contents);
  return bytes(u16(config.length), config).toString('base64');
};
const withTag = (t: Try, ech: Buffer): Buffer => {
  const out = Buffer.from(ech);
  out.write(t.tag, out.length - 100, 'latin1');
  return out;
};
const KEY = { HTTPS: [{ priority: 1, target: '.', ech: echConfigs(CONFIG_ID) }] };

const names: readonly NameAttack[] = [
  {
    id: 'name-other-site',
    title: 'another server name to an address that the permitted site shares',
    families: BOTH,
    stoppedBy: NAME,
    attack: first((t) => helloFor(t.evil)),
  },
  {
    id: 'name-none',
    title: 'no server name',
    families: BOTH,
    stoppedBy: NAME,
    attack: hello((t) => [note(t)]),
  },
  {
    id: 'name-no-extensions',
    title: 'a hello without extensions',
    families: ['v4'],
    stoppedBy: NAME,
    attack: first((t) => {
      const body = bytes(u16(0x0303), t.tag.padEnd(32, '.').slice(0, 32), u8(0), u16(2, 0x002f), u8(1, 0));
      return records(bytes(u8(1, 0), u16(body.length), body));
    }),
    arrived: (t, streams) => streams.some((s) => s.text.includes(t.tag.slice(0, 32))),
  },
  {
    id: 'name-address',
    title: 'the address as server name',
    families: BOTH,
    stoppedBy: NAME,
    attack: hello((t) => [serverNames(t.shared), note(t)]),
  },
  {
    id: 'name-number',
    title: 'the address as one number as server name',
    families: ['v4'],
    stoppedBy: NAME,
    attack: hello((t) => [serverNames('0x5db84201'), note(t)]),
  },
  {
    id: 'name-several',
    title: 'the permitted name and another one in one list',
    families: BOTH,
    stoppedBy: READ,
    attack: hello((t) => [serverNames(GOOD, t.evil)]),
  },
  {
    id: 'name-twice',
    title: 'two extensions with server names',
    families: BOTH,
    stoppedBy: READ,
    attack: hello((t) => [serverNames(GOOD), serverNames(t.evil)]),
  },
  {
    id: 'name-type',
    title: 'a server name of another type than host name',
    families: ['v4'],
    stoppedBy: READ,
    attack: hello((t) => {
      const entry = bytes(u8(1), u16(t.evil.length), t.evil);
      return [extension(0, bytes(u16(entry.length), entry))];
    }),
  },
  {
    id: 'name-upper-case',
    title: 'the other name in upper case',
    families: ['v4'],
    stoppedBy: NAME,
    attack: first((t) => helloFor(t.evil.toUpperCase())),
    arrived: (t, streams) => streams.some((s) => s.text.includes(t.tag.toUpperCase())),
  },
  {
    id: 'name-with-dot',
    title: 'the other name with a dot at its end',
    families: ['v4'],
    stoppedBy: NAME,
    attack: first((t) => helloFor(`${t.evil}.`)),
  },
  {
    id: 'name-with-nul',
    title: 'the other name, a NUL, and the permitted name behind it',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => helloFor(`${t.evil}\0.${GOOD}`)),
  },
  {
    id: 'name-with-nul-behind',
    title: 'the permitted name, a NUL, and the other name behind it',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => helloFor(`${GOOD}\0.${t.evil}`)),
  },
  {
    id: 'name-not-ascii',
    title: 'bytes that are not ASCII in the name',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => helloFor(`${t.tag}\u0456.${GOOD}`)),
  },
  {
    id: 'name-below',
    title: 'a name below the permitted one, which no entry permits',
    families: ['v4'],
    stoppedBy: NAME,
    attack: first((t) => helloFor(`${t.tag}.${GOOD}`)),
  },
  {
    id: 'name-other-address',
    title: 'the permitted name to the address of another site',
    families: BOTH,
    control: 'no policy',
    stoppedBy: 'addresses are permitted once a permitted name has resolved to them',
    attack: async (t) => {
      const c = await t.open({ dst: OTHER[t.family] });
      c.segment(records(helloMessage(serverNames(GOOD), note(t))));
    },
  },
];

const hidden: readonly NameAttack[] = [
  {
    id: 'name-ech',
    title: 'an encrypted hello for a key that the server has published, with the permitted name outside',
    families: BOTH,
    stoppedBy: 'an encrypted hello for a published key refuses the flow unless its entry has ech=allow',
    attack: hello((t) => [serverNames(GOOD), withTag(t, encryptedHello(CONFIG_ID))]),
  },
  {
    id: 'name-esni',
    title: 'the encrypted server name of the draft before',
    families: ['v4'],
    stoppedBy: READ,
    attack: hello((t) => [serverNames(GOOD), extension(0xffce, Buffer.from(t.tag))]),
  },
  {
    id: 'name-second-hello',
    title: 'a second hello with another name before the server has answered',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: 'each hello is evaluated until the server has answered',
    attack: async (t) => {
      const c = await t.open();
      const good = helloFor(GOOD);
      c.segment(good);
      await t.received(c, good.length);
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'name-second-hello-together',
    title: 'the same in one segment with the first one',
    families: BOTH,
    stoppedBy: 'each hello is evaluated until the server has answered',
    attack: first((t) => bytes(helloFor(GOOD), helloFor(t.evil))),
  },
  {
    id: 'name-after-retry',
    title: 'another name in the hello after a HelloRetryRequest',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: 'the hello after a HelloRetryRequest is evaluated like the first one',
    attack: async (t) => {
      const good = helloFor(GOOD);
      const c = await t.open({ answers: [{ after: good.length, send: RETRY.toString('latin1') }] });
      c.segment(good);
      await t.answered(c, RETRY.length);
      c.segment(bytes(u8(20, 3, 3), u16(1), u8(1)));
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'name-after-split-retry',
    title: 'the same, the HelloRetryRequest in two records',
    families: ['v4'],
    hasPermitted: true,
    stoppedBy: 'an answer that cannot be recognized counts as a HelloRetryRequest',
    attack: async (t) => {
      const good = helloFor(GOOD);
      const message = RETRY.subarray(5);
      const split = bytes(
        u8(22, 3, 3),
        u16(20),
        message.subarray(0, 20),
        u8(22, 3, 3),
        u16(54),
        message.subarray(20),
      );
      const c = await t.open({ answers: [{ after: good.length, send: split.toString('latin1') }] });
      c.segment(good);
      await t.answered(c, split.length);
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'name-after-retry-twice',
    title: 'a permitted second hello, and a forbidden third one before the server answers it',
    families: ['v4'],
    hasPermitted: true,
    stoppedBy: 'each hello is evaluated until the server has answered',
    attack: async (t) => {
      const good = helloFor(GOOD);
      const c = await t.open({ answers: [{ after: good.length, send: RETRY.toString('latin1') }] });
      c.segment(good);
      await t.answered(c, RETRY.length);
      c.segment(good);
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'name-after-data',
    title: 'data of 0-RTT behind the permitted hello, and then another hello',
    families: ['v4'],
    hasPermitted: true,
    stoppedBy: 'each hello is evaluated until the server has answered',
    attack: async (t) => {
      const c = await t.open();
      c.segment(bytes(helloFor(GOOD), u8(23, 3, 3), u16(4), u8(1, 2, 3, 4)));
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'name-behind-message',
    title: 'another handshake message before the hello, in one record with it',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => records(bytes(u8(0, 0, 0, 0), helloMessage(serverNames(t.evil))))),
  },
  {
    id: 'name-long-record',
    title: 'a permitted hello and another one in one record',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => records(bytes(helloMessage(serverNames(GOOD)), helloMessage(serverNames(t.evil))))),
  },
  {
    id: 'name-empty-record',
    title: 'an empty record before the hello',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => bytes(u8(22, 3, 1), u16(0), helloFor(t.evil))),
  },
  {
    id: 'name-not-first',
    title: 'an alert before the hello',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => bytes(ALERT, helloFor(t.evil))),
  },
  {
    id: 'name-http-on-443',
    title: 'a request of HTTP on the port of TLS',
    families: BOTH,
    stoppedBy: READ,
    attack: first((t) => bytes(`GET / HTTP/1.1\r\nHost: ${t.evil}\r\n\r\n`)),
  },
  {
    id: 'name-old-protocol',
    title: 'another protocol on the port of TLS',
    families: ['v4'],
    stoppedBy: READ,
    attack: first((t) => bytes(`SSH-2.0-${t.tag}\r\n`)),
  },
  {
    id: 'name-long-extensions',
    title: 'the other name behind 12,000 bytes of extensions',
    families: ['v4'],
    stoppedBy: NAME,
    attack: hello((t) => [padding(12_000), serverNames(t.evil)]),
  },
];

namesSuite('names in hellos', { ofGood: KEY }, [...names, ...hidden]);
