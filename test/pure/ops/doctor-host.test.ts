import { describe, expect, it } from 'vitest';
import { engineFacts, hostFindings } from '../../../src/coverage/host-findings.js';
import { readDaemon } from '../../../src/docker/docker-values.js';
import { checkListener, hostChecks } from '../../../src/ops/doctor.js';

/** What doctor says of the host of an engine whose `GET /info` is this, with Docker's own seccomp profile. */
const checksOf = (info: object) => {
  const engine = engineFacts(readDaemon({ SecurityOptions: ['name=seccomp,profile=builtin'], ...info }));
  return hostChecks(hostFindings({ host: undefined, engine, failure: 'closed' })).map(
    ({ name, ok, level }) => ({ name, ok, level }),
  );
};

it('an engine without seccomp, or with a profile of its own, is said', () => {
  for (const SecurityOptions of [[], null, ['name=seccomp,profile=/etc/docker/own.json']])
    expect(checksOf({ SecurityOptions })).toEqual([{ name: 'engine-seccomp', ok: false, level: 'warn' }]);
});

describe('the firewall backend of Docker', () => {
  it.each(['nftables', 'nftables+firewalld'])('%s: the host is not protected, doctor fails', (Driver) => {
    expect(checksOf({ ServerVersion: '29.0.1', FirewallBackend: { Driver } })).toEqual([
      { name: 'nftables-backend', ok: false, level: 'error' },
    ]);
  });

  it('iptables on an engine that is newer than the tested ones: said, not refused', () => {
    expect(checksOf({ ServerVersion: '29.0.1', FirewallBackend: { Driver: 'iptables' } })).toEqual([
      { name: 'engine-untested', ok: true, level: 'warn' },
    ]);
  });

  it.each([
    { ServerVersion: '28.5.2+dfsg4', FirewallBackend: { Driver: 'iptables' } },
    { ServerVersion: '28.5.2', FirewallBackend: { Driver: 'iptables+firewalld' } },
    { ServerVersion: '26.1.5+dfsg1' },
    {},
  ])('nothing to say of %j', (info) =>
    expect(checksOf(info)).toEqual([{ name: 'host', ok: true, level: 'warn' }]),
  );
});

describe('the listener of the API', () => {
  it.each(['0.0.0.0:7070', '[::]:7070', '10.0.0.5:7070', '[2001:db8::1]:7070'])(
    '%s is reached from other hosts without TLS: a warning with a remedy',
    (listen) => {
      expect(checkListener(listen)).toMatchObject([
        {
          ok: false,
          level: 'warn',
          detail: expect.stringContaining(listen),
          remedy: expect.stringMatching(/TLS/),
        },
      ]);
    },
  );
  it.each(['unix:/run/drawbridge/api.sock', '127.0.0.1:7070', '[::1]:7070', 'localhost:7070'])(
    '%s is not',
    (listen) => {
      expect(checkListener(listen)).toEqual([]);
    },
  );
});
