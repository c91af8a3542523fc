import { expect, it } from 'vitest';
import { parseSetSave } from '../../../src/kernel/ipset-text.js';

it('reads each member into its own set, in any order of the lines', () => {
  const saved = parseSetSave(
    [
      'create other hash:ip family inet hashsize 64 maxelem 65536',
      'add other 192.0.2.9',
      'create db-a hash:net family inet hashsize 64 maxelem 65536',
      'add db-a 10.0.0.0/8',
      'create db-ab hash:ip family inet6 hashsize 64 maxelem 65536 timeout 0',
      'add db-ab 2001:db8::1 timeout 30',
      'add db-a 192.0.2.1',
      'add db-ab ::ffff:192.0.2.1 timeout 5',
      'add db-unknown 192.0.2.2',
      'create db-p hash:ip,port family inet hashsize 64 maxelem 65536',
      'add db-p 192.0.2.1,tcp:80',
      'create db-',
      'add db-p 192.0.2.2,udp:53',
    ].join('\n'),
    'db',
  );
  expect([...saved]).toEqual([
    ['db-a', { type: 'hash:net', family: 4, timed: false, members: new Set(['10.0.0.0/8', '192.0.2.1']) }],
    [
      'db-ab',
      { type: 'hash:ip', family: 6, timed: true, members: new Set(['2001:db8::1', '::ffff:c000:201']) },
    ],
    [
      'db-p',
      {
        type: 'hash:ip,port',
        family: 4,
        timed: false,
        members: new Set(['192.0.2.1,tcp:80', '192.0.2.2,udp:53']),
      },
    ],
  ]);
});
