/** What a person sees on a terminal: widths, times, counts, empty tables, unknown commands. */
import { stripVTControlCharacters } from 'node:util';
import stringWidth from 'string-width';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ContainerBody } from '../../../src/api/schemas.js';
import { relativeTime, remainingTime, sizeText } from '../../../src/cli/output.js';
import { RefusedError } from '../../../src/lib/problem.js';
import type { Finding } from '../../../src/policy/finding.js';
import { denial } from '../api/double.js';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

const LONG = 'a reason '.repeat(200).trim();
const finding = (code: string, state: Finding['state'], detail = LONG): Finding => ({
  code,
  state,
  detail,
  remedy: 'do this',
});
function shown(more: Partial<ContainerBody>): void {
  const view = { ...bench.controller.container('web'), ...more };
  bench.controller.containers = () => [view];
  bench.controller.container = () => view;
}
const WEAK: Partial<ContainerBody> = {
  coverage: { state: 'unenforced', reasons: [LONG, LONG, LONG, LONG] },
  findings: [
    finding('privileged', 'unenforced'),
    finding('host-asked-names', 'partial'),
    finding('sys-admin', 'partial'),
    finding('broken-label', 'enforced', 'label drawbridge.alow is unknown'),
  ],
};

describe('ps', () => {
  it('is one line a container, with codes in place of sentences', async () => {
    shown(WEAK);
    const { out } = await bench.run('ps');
    expect(out).toBe('web\tobserve\tnone (3)\tnpm\t4\t2\t-\tprivileged, host-asked-names +2\n');
    bench.host = { isTerminal: true, columns: 100 };
    expect((await bench.run('ps', 'web')).out.split('\n')).toHaveLength(3);
    bench.host = { isTerminal: true, columns: 80 };
    const narrow = (await bench.run('ps')).out;
    for (const line of narrow.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });

  it('has what passed while it was observed apart from what was denied', async () => {
    shown({ denied: 1, wouldDeny: 11 });
    expect((await bench.run('ps')).out).toContain('\t4\t1 (would: 11)\t');
    expect((await bench.run('inspect', 'web')).out).toContain(
      '4 allowed, 1 denied, 11 passed that would be denied\n',
    );
    shown({ mode: 'enforce', denied: 1, wouldDeny: 11 });
    expect((await bench.run('ps')).out).toContain('\t4\t1\t');
  });
});

it('flows on a narrow terminal leave out packets and bytes before they break a destination', async () => {
  bench.controller.denied.push(denial({ reason: 'no entry permits it (observed, so it passed)' }));
  bench.host = { isTerminal: true, columns: 80 };
  const narrow = (await bench.run('flows')).out;
  expect(narrow).toContain('192.0.2.1:443/tcp');
  expect(narrow).not.toContain('PACKETS');
  bench.host = { isTerminal: true, columns: 200 };
  expect((await bench.run('flows')).out).toContain('PACKETS  BYTES');
});

describe('inspect', () => {
  it('has every reason with its remedy, entries with their sources, and the last denials', async () => {
    shown(WEAK);
    bench.controller.denied.push(denial(), denial({ name: 'x.org', proto: 'dns', address: '', port: 53 }));
    const { out, code } = await bench.run('inspect', 'web');
    expect(code).toBe(0);
    expect(out).toContain(LONG);
    expect(out).toMatch(/^ {2}NONE privileged: .*\n {4}→ do this\n {2}PARTIAL host-asked-names/m);
    expect(out).toMatch(/^ {2}note broken-label: label drawbridge.alow is unknown$/m);
    expect(out).toMatch(/^api\.github\.com\tits label drawbridge\.allow\t140\.82\.112\.3\t4$/m);
    expect(out).toMatch(/\tdeny\t192\.0\.2\.1:443\/tcp\tno entry covers it\n.*\tdeny\tx\.org \(DNS\)\t/);
    const json = JSON.parse((await bench.run('inspect', 'web', '--json')).out);
    expect(json).toMatchObject({ name: 'web', coverage: { state: 'unenforced' }, denials: [{}, {}] });
    bench.host = { isTerminal: true, columns: 80 };
    for (const line of (await bench.run('inspect', 'web')).out.split('\n'))
      expect(line.length).toBeLessThanOrEqual(80);
  });
});

it('status counts labels that do not parse and lists that do not exist', async () => {
  const status = bench.controller.status.bind(bench.controller);
  bench.controller.status = () => ({ ...status(), labelErrors: 2, missingLists: 1, paused: 1, off: 4 });
  const { out } = await bench.run('status');
  expect(out).toMatch(/^3 of 40 enforced, 37 observed, 4 off\n/);
  expect(out).toContain('PAUSED: 1 container is observed');
  expect(out).toContain('LABELS: 2 containers with a label that does not parse');
  expect(out).toContain('LISTS: 1 container with a list that does not exist');
});

it('times are relative on a terminal, and RFC 3339 in a pipe', async () => {
  const now = Date.parse('2030-01-01T12:00:00Z');
  expect(relativeTime('2030-01-01T11:57:00Z', now)).toBe('3 minutes ago');
  expect(relativeTime('2030-01-01T10:59:00Z', now)).toBe('1 hour ago');
  expect(relativeTime('2030-01-01T12:09:01Z', now)).toBe('in 9 min');
  expect(relativeTime('2030-01-03T12:00:00Z', now)).toBe('in 2 days');
  expect(relativeTime('2030-01-01T12:00:00Z', now)).toBe('in 0 s');
  expect(relativeTime('2029-01-01T12:00:00Z', now)).toBe('2029-01-01');
  expect(relativeTime('soon', now)).toBe('soon');
  expect(remainingTime('2030-01-01T12:09:01Z', now)).toBe('for another 9 min');
  expect(remainingTime('2030-01-01T12:59:58Z', now)).toBe('for another 1 h');
  expect(remainingTime('2031-01-01T12:00:00Z', now)).toBe('until 2031-01-01');
  expect(remainingTime('2030-01-01T11:00:00Z', now)).toBe('ended');
  expect([0, 999, 1500, 5e9, 12_400_000].map(sizeText)).toEqual(['0 B', '999 B', '1.5 kB', '5 GB', '12 MB']);
});

it('an empty table says that it is empty, and what to do', async () => {
  expect(await bench.run('tokens')).toMatchObject({ out: '', err: expect.stringMatching(/tokens create/) });
  bench.controller.feedsKnown.length = 0;
  expect(await bench.run('feeds')).toMatchObject({ out: '', err: expect.stringMatching(/catalogue/) });
  expect(await bench.run('feeds', 'sync')).toMatchObject({ code: 0, err: expect.stringMatching(/no feeds/) });
});

it('no JSON pointer of a request reaches the command line', async () => {
  bench.controller.explain = () => {
    throw new RefusedError({
      kind: 'invalid',
      problems: [{ detail: '"db" is no name', remedy: 'write it whole', pointer: '/to' }],
    });
  };
  expect((await bench.run('explain', 'web', 'db')).err).toBe('"db" is no name\n  → write it whole\n');
});

describe('an unknown command', () => {
  it.each([
    [['statsu'], /unknown command "statsu"\n {2}→ did you mean status\?/],
    [['flow-list', '--help'], /unknown command "flow-list"\n {2}→ there are: status, ps/],
    [['ps', '--jsno'], /unknown option '--jsno'\n {2}→ did you mean --json\?/],
    [['allow', 'web'], /missing required argument 'entry'\n {2}→ see drawbridge allow --help/],
    [['lists', 'shwo', '--help'], /unknown command of lists "shwo"\n {2}→ did you mean show\?/],
  ])('%j is wrong usage, with --help too', async (argv, said) => {
    expect(await bench.run(...argv)).toMatchObject({ code: 2, out: '', err: expect.stringMatching(said) });
  });

  it('version and --version say the same', async () => {
    expect((await bench.run('version')).out).toBe('0.1.0\n');
    expect((await bench.run('--version')).out).toBe('0.1.0\n');
  });

  it('help has its groups', async () => {
    expect((await bench.run('--help')).out).toMatch(
      /Daily:\n(.*\n)+\nPolicies and feeds:\n(.*\n)+\nInspection:\n(.*\n)+\nService:/,
    );
  });
});

it.each([
  [
    ['inspect', 'wbe'],
    /no compose service, wbe\n {2}→ did you mean web\? Otherwise running containers are: web/,
  ],
  [['inspect', 'database'], /no compose service, database\n {2}→ running containers are: web/],
])('%j proposes the nearest name only', async (argv, said) => {
  expect(await bench.run(...argv)).toMatchObject({ code: 1, err: expect.stringMatching(said) });
});

it('without a command it shows the first ones that a person needs', async () => {
  const { code, out, err } = await bench.run();
  expect({ code, out }).toEqual({ code: 2, out: '' });
  expect(err).toMatch(
    /^Begin with these:\n.*doctor .*\n.*ps .*\n.*mode web enforce --dry-run .*\n\nUsage: drawbridge/,
  );
});

describe('colours', () => {
  const both = { stdout: true, stderr: true };
  const ESCAPE = '\u001b';

  it('are on a terminal that shows them: modes, coverage and verdicts', async () => {
    bench.host = { isTerminal: true, colours: both };
    expect((await bench.run('ps')).out).toContain(
      `web   ${ESCAPE}[33mobserve${ESCAPE}[39m  ${ESCAPE}[32mfull${ESCAPE}[39m`,
    );
    expect((await bench.run('explain', 'web', 'a.org')).out).toContain(
      `${ESCAPE}[31mdeny${ESCAPE}[39m: web to a.org`,
    );
    expect((await bench.run('ps', '--jsno')).err).toMatch(
      /^\u001b\[31munknown option '--jsno'\u001b\[39m\n {2}→/,
    );
  });

  it('are never in JSON, in a pipe, or where the terminal has none', async () => {
    for (const argv of [
      ['ps', '--json'],
      ['explain', 'web', 'a.org', '--json'],
      ['ps', '--json', '--jsno'],
    ]) {
      bench.host = { isTerminal: true, colours: both };
      const { out, err } = await bench.run(...argv);
      expect(out + err).not.toContain(ESCAPE);
    }
    bench.host = { isTerminal: true };
    expect((await bench.run('ps')).out).not.toContain(ESCAPE);
    bench.host = {};
    expect((await bench.run('ps')).out).not.toContain(ESCAPE);
  });

  it('do not move the columns, nor do wide and combining characters', async () => {
    const names = ['web', '\u65e5\u672c\u8a9e', 'cafe\u0301', '\u{1f468}\u{1f469}\u{1f467}'];
    const view = bench.controller.container('web');
    bench.controller.containers = () => names.map((name) => ({ ...view, name }));
    bench.host = { isTerminal: true, colours: both };
    const lines = stripVTControlCharacters((await bench.run('ps')).out)
      .trimEnd()
      .split('\n');
    const columns = lines.map((line) => stringWidth(line.slice(0, line.search(/MODE|observe/))));
    expect(columns).toEqual(Array(1 + names.length).fill(stringWidth('\u65e5\u672c\u8a9e') + 2));
  });
});

describe('--watch', () => {
  /** Resolves with the frames when `enough` have been drawn; the signal that ends it is sent then. */
  async function watched(argv: readonly string[], onFrame: (frames: number) => 'go on' | 'end', rows = 24) {
    const handlers = new Map<string, () => void>();
    let [out, frames] = ['', 0];
    bench.host = {
      isTerminal: true,
      rows,
      stdout: {
        write: (text: string) => {
          out += text;
          if (text.startsWith('\u001b[H') && onFrame(++frames) === 'end')
            setImmediate(() => handlers.get('SIGINT')?.());
        },
      },
      onSignal: (signals, handler) => {
        for (const signal of signals) handlers.set(signal, () => handler(signal));
        return {
          [Symbol.dispose]: () => {
            for (const signal of signals) handlers.delete(signal);
          },
        };
      },
    };
    const { code } = await bench.run(...argv);
    return { code, out, frames, left: [...handlers.keys()] };
  }

  it('draws again when something happens, and leaves the terminal as it was', async () => {
    const { code, out, left } = await watched(['ps', '--watch'], (frames) => {
      bench.controller.mode = 'enforce';
      if (frames === 1)
        setTimeout(() => {
          bench.controller.events.emit('repair', { detail: 'a set' });
        }, 300);
      return frames === 2 ? 'end' : 'go on';
    });
    expect(code).toBe(0);
    expect(left).toEqual([]);
    expect(out.startsWith('\u001b[?1049h\u001b[?25l\u001b[H')).toBe(true);
    expect(out).toMatch(/web +observe.*web +enforce/s);
    expect(out.endsWith('\u001b[?25h\u001b[?1049l')).toBe(true);
  });

  it('shows why there is nothing while the service is away, and goes on', async () => {
    await bench.stopServing();
    const { code, out } = await watched(['status', '--watch'], () => 'end');
    expect(code).toBe(0);
    expect(out).toContain('the service is not running');
  });

  it('cuts what the terminal has no room for', async () => {
    const { out } = await watched(['status', '--watch'], () => 'end', 4);
    expect(out).toMatch(/3 of 40 enforced.*\n.*\n… \d+ more lines/);
  });

  it.each([
    ['in a pipe', ['ps', '--watch'], false],
    ['with --json', ['status', '--watch', '--json'], true],
  ])('is refused %s', async (_, argv, isTerminal) => {
    bench.host = { isTerminal };
    expect(await bench.run(...argv)).toMatchObject({
      code: 2,
      out: '',
      err: expect.stringContaining('--watch'),
    });
  });
});

describe('what is set for owners without a container', () => {
  const grants = [{ id: 'g7', entry: 'a.org' }];
  const gone = { owner: 'compose:shop/web', hasProject: true, mode: 'enforce', grants } as const;
  const down = { owner: 'compose:old/api', hasProject: false, mode: 'observe', grants: [] } as const;

  it('is shown by status: with the commands where the project still has other services', async () => {
    bench.controller.kept = { modes: 2, grants: 1, owners: [gone, down] };
    const { out } = await bench.run('status');
    expect(out).toMatch(/^LEFT BEHIND: 1 mode and 1 grant for 1 service without a container, though others/m);
    expect(out).toContain(
      "  shop/web · mode enforce: drawbridge mode shop/web auto · grant: drawbridge revoke shop/web 'a.org'\n",
    );
    expect(out).toMatch(/^kept: 1 mode for 1 stopped service or name, without a container: old\/api$/m);
    bench.controller.kept = { modes: 0, grants: 0, owners: [] };
    expect((await bench.run('status')).out).not.toMatch(/LEFT BEHIND|kept/);
  });

  it('is asked about before, where hosts share it', async () => {
    bench.controller.kept = { modes: 1, grants: 1, owners: [gone] };
    bench.controller.nodesSeen = [{}, {}] as never;
    expect((await bench.run('mode', 'shop/web', 'auto')).code).toBe(2);
    expect((await bench.run('mode', 'shop/web', 'auto', '--yes', '--json')).out).toContain(
      'compose:shop/web',
    );
    expect((await bench.run('status')).out).toContain('without a container on this host, though others');
  });

  it('is taken away by mode auto and revoke, unless a container has this name', async () => {
    bench.controller.kept = { modes: 1, grants: 1, owners: [gone, { ...gone, owner: 'name:web' }] };
    expect(await bench.run('mode', 'shop/web', 'auto')).toMatchObject({
      ...{ code: 0, out: 'the mode of compose:shop/web is forgotten\n' },
    });
    expect(await bench.run('revoke', 'shop/web', 'a.org')).toMatchObject({ code: 0 });
    expect(await bench.run('mode', 'web', 'auto')).toMatchObject({ code: 0 });
    expect((await bench.run('mode', 'shop/web', 'enforce', '--yes')).code).toBe(1);
    const calls = bench.controller.calls.filter(([what]) => /forget|revokeGrant|setModes/.test(String(what)));
    expect(calls.map(([what, of]) => [what, of])).toEqual([
      ['forget', 'compose:shop/web'],
      ['revokeGrant', 'compose:shop/web'],
      ['setModes', [bench.controller.container('web').id]],
    ]);
  });
});

it('a project in place of a container is answered with --project, of what runs and of what is recorded', async () => {
  const record = { owner: 'compose:old/api', since: 0, gaps: [], starts: 1, dropped: 0, seen: [] };
  bench.controller.records.set('compose:old/api', record);
  for (const command of ['ps', 'flows', 'suggest', 'inspect'])
    expect((await bench.run(command, 'old')).err).toContain('drawbridge flows --project old');
  expect((await bench.run('ps', 'old/api')).err).toContain('drawbridge suggest old/api');
  expect((await bench.run('ps', '--project', 'old')).err).toContain('drawbridge flows --project old');
  expect((await bench.run('ps', 'never')).err).toContain('running containers are: web');
  shown({ compose: { project: 'shop', service: 'api' } });
  bench.controller.container = (id) => {
    throw new RefusedError({ kind: 'not-found', detail: `there is no container ${id}`, remedy: '' });
  };
  expect((await bench.run('ps', 'shop')).err).toMatch(/write --project shop .* services: api/);
  expect((await bench.run('ps', '--project', 'shop')).out).toMatch(/^web\t/);
  expect((await bench.run('flows', 'web', '--project', 'shop')).code).toBe(2);
});
