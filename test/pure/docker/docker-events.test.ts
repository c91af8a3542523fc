import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineCutter, readEvent } from '../../../src/docker/docker-events.js';
import { describeChange, mayRemoveContainers, type ViewChange } from '../../../src/policy/engine.js';
import { ID } from './samples.js';

const line = (Type: string, Action: string, ID: string, Attributes: object = {}): string =>
  JSON.stringify({ Type, Action, Actor: { ID, Attributes }, time: 1, timeNano: 1_500_000 });

describe('events', () => {
  it('takes the id and nothing that labels can forge', () => {
    const forged = { name: 'other', oldName: 'x', container: ID('b'), exitCode: '0' };
    expect(readEvent(line('container', 'die', ID('a'), forged))).toEqual({
      kind: 'container',
      action: 'die',
      id: ID('a'),
      at: 1.5,
    });
  });
  it('knows attachments', () => {
    const attributes = { container: ID('a'), name: 'front', type: 'bridge' };
    const event = { kind: 'attach', network: ID('f'), id: ID('a'), at: 1.5 };
    expect(readEvent(line('network', 'connect', ID('f'), attributes))).toEqual({
      ...event,
      action: 'connect',
    });
    expect(readEvent(line('network', 'disconnect', ID('f'), attributes))).toEqual({
      ...event,
      action: 'disconnect',
    });
    expect(readEvent(line('network', 'connect', ID('f'), { container: 'lb-front' }))).toBe('ignored');
  });
  it('knows networks, by either word for the end', () => {
    for (const action of ['destroy', 'remove']) {
      expect(readEvent(line('network', action, ID('f')))).toEqual({
        kind: 'network',
        action: 'destroy',
        network: ID('f'),
        at: 1.5,
      });
    }
  });
  it('knows no time that the engine does not tell', () => {
    const Actor = { ID: ID('a') };
    expect(readEvent(JSON.stringify({ Type: 'container', Action: 'die', Actor, time: 1 }))).toEqual({
      kind: 'container',
      action: 'die',
      id: ID('a'),
    });
  });
  it.each(['exec_start: sh', 'kill', 'oom', 'health_status: healthy', 'update'])('ignores %s', (action) => {
    expect(readEvent(line('container', action, ID('a')))).toBe('ignored');
  });
  it('says when a line cannot be read', () => {
    for (const bad of [
      '',
      '{',
      '[]',
      'null',
      line('container', 'start', 'short'),
      line('network', 'create', ''),
    ]) {
      expect(readEvent(bad)).toBe('malformed');
    }
  });
  it('never throws', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void readEvent(text)));
  });
});

describe('lines', () => {
  it('come whole, however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ minLength: 1, unit: 'grapheme' })),
        fc.array(fc.integer({ min: 1, max: 9 })),
        (texts, cuts) => {
          const lines = texts.map((t) => JSON.stringify(t));
          const bytes = Buffer.from(lines.map((l) => `${l}\n`).join(''));
          const cutter = new LineCutter(1_000_000);
          const out: string[] = [];
          let at = 0;
          for (let i = 0; at < bytes.length; i += 1) {
            const size = cuts[i % Math.max(cuts.length, 1)] ?? 3;
            out.push(...cutter.push(bytes.subarray(at, at + size)));
            at += size;
          }
          expect(out).toEqual(lines);
        },
      ),
    );
  });
  it('have a bound: of a longer one only the beginning is kept, and what follows it is whole', () => {
    const cutter = new LineCutter(10);
    expect(cutter.push(Buffer.from('{"a":"0123456789'))).toEqual([]);
    expect(cutter.push(Buffer.from('x'.repeat(1_000)))).toEqual([]);
    expect(cutter.push(Buffer.from('"}\n{"b":1}\n'))).toEqual(['{"a":"0123', '{"b":1}']);
    expect(readEvent('{"a":"0123')).toBe('malformed');
  });
  it('of many chunks take a time that grows with their length only', () => {
    const cutter = new LineCutter(64 * 1024 * 1024);
    const chunk = Buffer.alloc(1_000, 'x');
    const began = performance.now();
    // Joined at each chunk these are 16,000 copies of 8 MB on average, more than a minute.
    for (let i = 0; i < 16_000; i++) cutter.push(chunk);
    expect(cutter.push(Buffer.from('\n'))[0]).toHaveLength(16_000_000);
    expect(performance.now() - began).toBeLessThan(10_000);
  });
});

describe('the reason of a new view', () => {
  const container = (action: 'start' | 'destroy'): ViewChange => ({
    kind: 'event',
    event: { kind: 'container', action, id: ID('a') },
  });
  const network = (action: 'create' | 'destroy'): ViewChange => ({
    kind: 'event',
    event: { kind: 'network', action, network: ID('f') },
  });
  const attach: ViewChange = {
    kind: 'event',
    event: { kind: 'attach', action: 'connect', network: ID('f'), id: ID('a') },
  };
  const inspect = (object: 'container' | 'network' | 'services' | 'image', id: string): ViewChange => ({
    kind: 'inspect',
    object,
    id,
  });
  const short = (digit: string): string => ID(digit).slice(0, 12);

  it('is one text for logs', () => {
    expect(describeChange({ kind: 'connected' })).toBe('connected');
    expect(describeChange({ kind: 'list' })).toBe('list');
    expect(describeChange(container('start'))).toBe(`container start ${short('a')}`);
    expect(describeChange(network('destroy'))).toBe(`network destroy ${short('f')}`);
    expect(describeChange(attach)).toBe(`network connect ${short('a')}`);
    expect(describeChange(inspect('container', ID('a')))).toBe(`inspect ${short('a')}`);
    expect(describeChange(inspect('network', ID('f')))).toBe(`network ${short('f')}`);
    expect(describeChange(inspect('services', ID('f')))).toBe(`services ${short('f')}`);
    expect(describeChange(inspect('image', `sha256:${ID('b')}`))).toBe(`image sha256:${short('b')}`);
  });

  it('shows whether a container may be gone', () => {
    for (const change of [{ kind: 'connected' }, { kind: 'list' }, container('destroy')] as const)
      expect(mayRemoveContainers(change)).toBe(true);
    for (const change of [
      { kind: 'disconnected' } as const,
      container('start'),
      network('destroy'),
      attach,
      inspect('container', ID('a')),
      inspect('network', ID('f')),
    ])
      expect(mayRemoveContainers(change)).toBe(false);
  });
});
