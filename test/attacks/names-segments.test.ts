/** Segments that the check and the server could put together differently. */
import { helloFor, helloMessage, padding, records, serverNames } from '../pure/connections/hello-maker.js';
import { BOTH, GOOD, type NameAttack, namesSuite, type Try } from './names.js';
import { differAt, evilOf, goodOf, helloOf, send } from './names-hellos.js';
import { type Bytes, bytes, type Ends, fragments, ip, options6, u8 } from './wire.js';

const TCP = 6;
const WHOLE = 'nothing of a hello goes on before all of it was evaluated';
const OVERLAP =
  'other bytes in the place of some that were sent refuse the flow, also after the first ones went on';
const HEADERS = 'packets with options of IP or extension headers of an enforced container go no further';
const BEGINS = 'a SYN begins another check, and tells where the stream begins';

const splits: readonly NameAttack[] = [
  {
    id: 'name-two-segments',
    title: 'a hello in two segments, the name in the second one',
    families: BOTH,
    stoppedBy: WHOLE,
    attack: async (t) => {
      const c = await t.open();
      c.segment(evilOf(t).subarray(0, 40));
      c.segment(evilOf(t).subarray(40));
    },
  },
  {
    id: 'name-one-byte-segments',
    title: 'a hello in segments of one byte',
    families: BOTH,
    stoppedBy: 'a hello in more segments than a first flight has refuses the flow',
    attack: async (t) => {
      const c = await t.open();
      for (const byte of evilOf(t)) c.segment(u8(byte));
    },
  },
  {
    id: 'name-many-segments',
    title: 'a hello in 70 segments',
    families: BOTH,
    stoppedBy: 'a hello in more segments than a first flight has refuses the flow',
    attack: async (t) => {
      const c = await t.open();
      c.stream(helloOf(t.evil, 560), 10);
    },
  },
  {
    id: 'name-reversed',
    title: 'the segments of a hello from the last one to the first one (multidisorder)',
    families: BOTH,
    stoppedBy: WHOLE,
    attack: async (t) => {
      const c = await t.open();
      const all = evilOf(t);
      const size = Math.ceil(all.length / 6);
      for (let at = 5 * size; at >= 0; at -= size) send(c, all, at, at + size);
    },
  },
  {
    id: 'name-records',
    title: 'a hello in two records of TLS, the name in both (tlsrec)',
    families: BOTH,
    stoppedBy: 'records are put together before they are read',
    attack: async (t) => {
      const c = await t.open();
      const message = helloMessage(serverNames(t.evil));
      c.segment(records(message, message.indexOf(t.tag) + t.tag.length + 2));
    },
  },
  {
    id: 'name-tiny-records',
    title: 'a hello in records of TLS with one byte each',
    families: BOTH,
    stoppedBy: 'records are put together before they are read',
    attack: async (t) => {
      const c = await t.open();
      c.stream(records(helloMessage(serverNames(t.evil)), 1));
    },
    arrived: (t, streams) =>
      streams.some((s) => s.text.replace(/\x16\x03\x01\x00\x01(.)/gs, '$1').includes(t.tag)),
  },
  {
    id: 'name-long-hello',
    title: 'a hello of more than 16 KiB, the name at its end',
    families: BOTH,
    stoppedBy: 'a hello that is longer than a first flight refuses the flow',
    attack: async (t) => {
      const c = await t.open();
      c.stream(records(helloMessage(padding(17_000), serverNames(t.evil))));
    },
  },
  {
    id: 'name-slow',
    title: 'the second half of a hello more than 3 s after the first one',
    families: ['v4'],
    stoppedBy: 'a hello that is not complete within 3 s refuses the flow',
    attack: async (t) => {
      const c = await t.open();
      send(c, evilOf(t), 0, 60);
      await t.never(3_300);
      send(c, evilOf(t), 60);
    },
  },
];

const overlaps: readonly NameAttack[] = [
  {
    id: 'name-overlap-first',
    title:
      'the end of a forbidden hello, then that of a permitted one in its place, then the beginning of both',
    families: BOTH,
    stoppedBy: OVERLAP,
    attack: async (t) => {
      const c = await t.open();
      const at = differAt(t);
      send(c, evilOf(t), at);
      send(c, goodOf(t), at);
      send(c, evilOf(t), 0, at);
    },
  },
  {
    id: 'name-overlap-last',
    title: 'a part of a permitted hello, then a larger one of a forbidden one over it, then the beginning',
    families: BOTH,
    stoppedBy: OVERLAP,
    attack: async (t) => {
      const c = await t.open();
      const at = differAt(t);
      send(c, goodOf(t), at, at + 8);
      send(c, evilOf(t), at - 4);
      send(c, evilOf(t), 0, at - 4);
    },
  },
  {
    id: 'name-overlap-partial',
    title: 'segments that overlap in part, where the server keeps the forbidden bytes of each',
    families: BOTH,
    stoppedBy: OVERLAP,
    attack: async (t) => {
      const c = await t.open();
      const at = differAt(t);
      const end = at + 40;
      const mixed = bytes(goodOf(t).subarray(0, end), evilOf(t).subarray(end));
      send(c, mixed, at + 8);
      send(c, evilOf(t), at, end);
      send(c, evilOf(t), 0, at);
    },
  },
  {
    id: 'name-before-start',
    title:
      'a segment that begins before the stream: the server skips what makes the hello a permitted one (seqovl)',
    families: BOTH,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await t.open();
      const evil = evilOf(t);
      // a permitted hello that has the forbidden one in its padding
      const around = helloFor(GOOD, padding(evil.length));
      const prefix = around.subarray(0, around.length - evil.length);
      send(c, bytes(prefix, evil), 0, undefined, { at: -prefix.length });
    },
  },
  {
    id: 'name-behind-gap',
    title: 'a permitted hello behind a gap, then what makes a forbidden one of it',
    families: BOTH,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await t.open();
      const inner = helloFor(GOOD);
      const evil = helloMessage(serverNames(t.evil), padding(inner.length));
      const all = records(evil);
      const at = all.length - inner.length;
      c.segment(inner, { at });
      await t.never(300);
      send(c, all, 0, at);
    },
  },
];
const inFragments =
  (make: (e: Ends, segment: Bytes, t: Try) => readonly Bytes[]) =>
  async (t: Try): Promise<void> => {
    const c = await t.open();
    c.segment(evilOf(t), { wrap: (e, segment) => make(e, segment, t) });
  };
const packets: readonly NameAttack[] = [
  {
    id: 'name-fragments',
    title: 'the segment of a hello in small fragments of IP',
    families: BOTH,
    stoppedBy: 'fragments are put together before they are evaluated',
    attack: inFragments((e, s) => fragments(e, TCP, s, [24, 48, 72, 96, 120, 144])),
  },
  {
    id: 'name-fragments-reversed',
    title: 'the same from the last one to the first one',
    families: BOTH,
    stoppedBy: 'fragments are put together before they are evaluated',
    attack: inFragments((e, s) => fragments(e, TCP, s, [48, 96, 144]).reverse()),
  },
  {
    id: 'name-ip-options',
    control: 'no policy',
    title: 'the segment of a hello with options of IP',
    families: ['v4'],
    stoppedBy: HEADERS,
    attack: inFragments((e, s) => [ip(e, TCP, s, { options: u8(1, 1, 1, 0) })]),
  },
  {
    id: 'name-extension-headers',
    control: 'no policy',
    title: 'the segment of a hello behind destination options of IPv6',
    families: ['v6'],
    stoppedBy: HEADERS,
    attack: inFragments((e, s) => [ip(e, 60, bytes(options6(TCP, 'x'), s))]),
  },
];

namesSuite('names in segments', {}, [...splits, ...overlaps, ...packets]);
