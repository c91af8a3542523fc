import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

async function ok(...argv: string[]): Promise<string> {
  const ran = await bench.run(...argv);
  expect(ran).toMatchObject({ code: 0, err: '' });
  return ran.out;
}

describe('looking', () => {
  it('status opens with the count', async () => {
    expect((await ok('status')).split('\n')[0]).toBe('3 of 40 enforced, 37 observed');
    expect((await ok('status')).split('\n')[1]).toBe(
      'coverage of the enforced: 1 full, 2 partial, 0 none (drawbridge ps, drawbridge inspect NAME)',
    );
    expect(await ok('status')).not.toMatch(/LABELS|LISTS/);
    expect(JSON.parse(await ok('status', '--json'))).toMatchObject({
      enforced: 3,
      coverage: { enforced: 1, partial: 2, unenforced: 0 },
    });
    expect(await ok('status')).not.toContain('NOT READY');
    bench.controller.isReady = false;
    expect(await ok('status')).toMatch(/^NOT READY: .+$/m);
  });

  it('ps is tab-separated lines in a pipe, a table on a terminal', async () => {
    expect(await ok('ps')).toBe('web\tobserve\tfull\tnpm\t4\t2\t-\t-\n');
    bench.host = { isTerminal: true };
    expect(await ok('ps')).toMatch(/^NAME +MODE +PROTECTION .*\nweb +observe +full +npm +4 +2 +- +-\n$/);
    expect(JSON.parse(await ok('ps', '--json'))).toMatchObject([{ name: 'web' }]);
  });

  it('explain and plan exit 0, and 1 with --exit-code', async () => {
    expect(await ok('explain', 'web', '192.0.2.1:25')).toBe(
      'deny: web to 192.0.2.1:25\n  because no entry covers it\n  remedy: drawbridge allow web 192.0.2.1:25 --for 1h\n  for good: label drawbridge.allow: 192.0.2.1:25\n',
    );
    expect((await bench.run('explain', 'web', 'a.org', '--exit-code')).code).toBe(1);
    expect(await ok('explain', 'web', 'a.org', '--trace')).toContain('| filter DB-FORWARD');
    bench.controller.verdict = 'allow';
    expect((await bench.run('explain', 'web', 'a.org', '--exit-code')).code).toBe(0);
    expect(await bench.run('plan')).toMatchObject({ code: 0, out: '' });
    bench.controller.planned = ['# ipset', 'create x'];
    expect(await ok('plan')).toBe('# ipset\ncreate x\n');
    expect((await bench.run('plan', '--exit-code')).code).toBe(1);
  });

  it('keeps other people’s escape sequences from the terminal', async () => {
    bench.controller.planned = ['\u001b[2Jgone\u0007'];
    expect(await ok('plan')).toBe('\ufffd[2Jgone\ufffd\n');
  });
});

describe('grants and modes', () => {
  it('allow asks for all entries or none, with who and how long', async () => {
    const bad = await bench.run('allow', 'web', 'a.org', 'https://b.org', 'a.org:80, 443');
    expect(bad.code).toBe(1);
    expect(bad.err).toMatch(/"https:\/\/b.org" is a URL\n {2}→ /);
    expect(bench.controller.calls).toEqual([]);
    expect(await ok('allow', 'web', 'A.org, b.org:443', '--for', '10m')).toBe(
      'web may reach a.org until 2030-01-01T00:10:00.000Z (grant g1)\nweb may reach b.org:443 until 2030-01-01T00:10:00.000Z (grant g2)\n',
    );
    expect(bench.controller.calls[0]).toEqual(['grant', 'web', 'a.org', 600_000, 'local:ann']);
    expect((await bench.run('allow', 'web', 'a.org', '--for', 'soon')).code).toBe(2);
  });

  it('revoke takes grants back, and names what to edit else', async () => {
    await ok('allow', 'web', 'a.org');
    expect(await ok('revoke', 'web', 'A.org')).toBe('web: grant of a.org revoked\n');
    expect((await bench.run('revoke', 'web', 'a.org')).err).toMatch(
      /has no entry a.org\n {2}→ it has: api.github.com/,
    );
    expect((await bench.run('revoke', 'web', 'api.github.com')).err).toContain(
      'out of the label drawbridge.allow of web',
    );
    bench.controller.container = () => ({
      ...Object.getPrototypeOf(bench.controller).container.call(bench.controller, 'web'),
      entries: [
        {
          entry: 'registry.npmjs.org',
          from: 'list npm, which claims it',
          source: { kind: 'claim', name: 'npm' },
          addresses: [],
          packets: 0,
          bytes: 0,
        },
      ],
    });
    const list = await bench.run('revoke', 'web', 'registry.npmjs.org');
    expect(list).toMatchObject({
      code: 1,
      err: expect.stringContaining('edit /etc/drawbridge/allowlists/npm.yaml'),
    });
  });
});

describe('lists', () => {
  it('are made, shown, changed and deleted', async () => {
    expect(await ok('lists')).toBe('npm\t/etc/drawbridge/allowlists/npm.yaml\t2\tweb\n');
    expect(await ok('lists', 'create', 'ci', 'a.org', '10.0.0.0/8:22')).toBe(
      'ci is in force with 2 entries\n',
    );
    expect((await bench.run('lists', 'create', 'ci', 'b.org')).err).toContain('changed meanwhile');
    expect(await ok('lists', 'add', 'ci', '.b.org', 'c.org tls=off')).toBe(
      '.b.org added to ci\nc.org tls=off added to ci\n',
    );
    expect(await ok('lists', 'remove', 'ci', '10.0.0.0/8:22')).toBe('10.0.0.0/8:22 removed from ci\n');
    expect(await ok('lists', 'show', 'ci')).toBe('allow:\n  - a.org\n  - .b.org\n  - c.org tls=off\n');
    expect(JSON.parse(await ok('lists', 'show', 'ci', '--json'))).toMatchObject({
      name: 'ci',
      source: 'store',
    });
    expect(await ok('lists', 'delete', 'ci')).toBe('ci is deleted\n');
    expect((await bench.run('lists', 'add', 'npm', 'a.org')).err).toMatch(/is a file\n {2}→ edit /);
  });

  it('come from a file or standard input, with problems in their places', async () => {
    const file = join(bench.dir, 'x.yaml');
    await writeFile(file, 'mode: off\nallow:\n  - a.org\n  - *.b.org\n  - 10.1.2.3/16\n');
    const bad = await bench.run('lists', 'create', 'x', '--file', file);
    expect(bad.code).toBe(1);
    expect(bad.err).toMatch(/x\.yaml:4:5: .*quotes/s);
    expect(bad.err).toContain('x.yaml:5:');
    bench.host = { stdin: Readable.from(['allow: [a.org]\n']) };
    await ok('lists', 'create', 'x', '--file', '-');
    expect((await bench.run('lists', 'create', 'y', 'a.org', '--file', file)).code).toBe(2);
  });

  async function editor(script: string): Promise<void> {
    const path = join(bench.dir, 'editor');
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
    bench.host = { ...bench.host, env: { DRAWBRIDGE_CONFIG: bench.config, EDITOR: path } };
  }

  it('are edited in the editor, under guard of their revision', async () => {
    await ok('lists', 'create', 'ci', 'a.org');
    expect(await bench.run('lists', 'edit', 'ci')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/no terminal/),
    });
    await editor('sed -i s/a.org/b.org/ "$1"');
    expect(await ok('lists', 'edit', 'ci')).toBe('ci is in force with 1 entry\n');
    expect(bench.controller.calls.at(-1)).toEqual(['putList', 'ci', { allow: ['b.org'] }, 1, 'local:ann']);
    await editor('true');
    const calls = bench.controller.calls.length;
    await ok('lists', 'edit', 'ci');
    expect(bench.controller.calls).toHaveLength(calls);
    expect((await bench.run('lists', 'edit', 'npm')).err).toContain('/etc/drawbridge/allowlists/npm.yaml');
    await editor('exit 3');
    expect((await bench.run('lists', 'edit', 'ci')).err).toContain('ended with 3; nothing was changed');
  });

  it('never lose an edit that is refused', async () => {
    await ok('lists', 'create', 'ci', 'a.org');
    await editor('echo "  - https://bad" >> "$1"');
    const refused = await bench.run('lists', 'edit', 'ci');
    expect(refused.code).toBe(1);
    const kept = /your edit is kept in (\S+)/.exec(refused.err)?.[1] ?? '';
    expect(await readFile(kept, 'utf8')).toContain('https://bad');
    await editor(
      `if [ -e ${bench.dir}/second ]; then sed -i s,https://bad,good.org, "$1"; else touch ${bench.dir}/second; echo "  - https://bad" >> "$1"; fi`,
    );
    bench.host = { ...bench.host, isTerminal: true, stdin: Readable.from(['y\n']) };
    const mended = await bench.run('lists', 'edit', 'ci');
    expect(mended).toMatchObject({ code: 0, out: 'ci is in force with 2 entries\n' });
    expect(mended.err).toMatch(/is a URL.*Edit again\?/s);
  });
});

describe('without a service', () => {
  beforeEach(() => bench.stopServing());

  it('says how to start it', async () => {
    expect(await bench.run('status')).toEqual({
      code: 1,
      out: '',
      err: expect.stringMatching(
        /service is not running: nothing answers on .*api\.sock\n {2}→ start it: sudo systemctl start drawbridge/,
      ),
    });
    expect(JSON.parse((await bench.run('ps', '--json')).err).errors).toHaveLength(1);
  });

  it('checks files', async () => {
    const file = join(bench.dir, 'a.yaml');
    await writeFile(file, 'allow: [a.org]\n');
    expect(await ok('check', file)).toMatch(/a\.yaml: OK\n$/);
    await writeFile(file, 'allow: [a.org, "10.1.2.3/16", "http://x.org"]\n');
    const bad = await bench.run('check', file);
    expect(bad.code).toBe(1);
    expect(bad.err.match(/a\.yaml:1:\d+/g)).toHaveLength(2);
    const json = await bench.run('check', file, '--json');
    expect([json.code, JSON.parse(json.out).problems.length]).toEqual([1, 2]);
  });

  it('check exits 1 for a list that does not exist in a folder, and 0 with a warning for one file', async () => {
    const file = join(bench.dir, 'lists', 'a.yaml');
    await mkdir(join(bench.dir, 'lists'));
    await writeFile(file, 'allow: [list:nothere]\n');
    expect(await bench.run('check', join(bench.dir, 'lists'))).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringMatching(/a\.yaml:1:9: list "nothere" does not exist/),
    });
    expect(await bench.run('check', file)).toMatchObject({
      code: 0,
      out: expect.stringMatching(/OK, 1 warning\n$/),
      err: expect.stringMatching(/^warning: .*nothere/),
    });
    expect((await bench.run('check', '--known', 'nothere', join(bench.dir, 'lists'))).code).toBe(0);
  });

  it('doctor exits 1 only when the host cannot enforce', async () => {
    const warning = { name: 'dns', ok: false, level: 'warn', detail: 'late', remedy: 'daemon.json' } as const;
    bench.host = {
      runDoctor: async () => [warning, { name: 'nft', ok: true, level: 'error', detail: 'there' }],
    };
    expect(await bench.run('doctor')).toMatchObject({
      code: 0,
      out: 'dns\twarning\tlate\tdaemon.json\nnft\tok\tthere\t-\n',
    });
    bench.host = { runDoctor: async () => [{ ...warning, level: 'error' }] };
    expect((await bench.run('doctor')).code).toBe(1);
  });

  it('tears down by itself, and purges only what is ours', async () => {
    await mkdir(join(bench.dir, 'state'));
    for (const name of ['store.log', 'lock', 'other']) await writeFile(join(bench.dir, 'state', name), '');
    bench.host = { teardownKernel: async () => ['5 sets'] };
    const out = await ok('teardown', '--purge');
    expect(out).toMatch(
      /^removed 5 sets\nremoved what was ours in .*state \(left there: other\)\nnothing is enforced now\n$/,
    );
    await expect(stat(join(bench.dir, 'state', 'store.log'))).rejects.toThrow();
    await stat(join(bench.dir, 'state', 'other'));
  });

  it('records the teardown before it is done, and does it without a record as well, which it says', async () => {
    const done: unknown[] = [];
    let why: string | undefined;
    bench.host = {
      recordAlone: async (_config, record) => {
        done.push(record);
        return why;
      },
      teardownKernel: async () => {
        done.push('removed');
        return ['5 sets'];
      },
    };
    const record = { action: 'teardown', after: null, outcome: 'done' };
    expect((await bench.run('teardown')).err).toBe('');
    expect(done).toEqual([record, 'removed']);
    why = 'the disk is full';
    const { code, out, err } = await bench.run('teardown');
    expect({ code, out }).toEqual({ code: 0, out: 'removed 5 sets\nnothing is enforced now\n' });
    expect(err).toBe('the audit has no record of teardown: the disk is full\n');
    expect(done).toEqual([record, 'removed', record, 'removed']);
  });

  it('tears down by the valid keys of a configuration that is refused, and leaves the state folder', async () => {
    const given: unknown[] = [];
    bench.host = {
      teardownKernel: async ({ kernel, state }, isRefused) => {
        given.push([kernel.prefix, state, isRefused]);
        return ['5 sets'];
      },
    };
    await writeFile(
      bench.config,
      `bogus: 1\nstate: ${bench.dir}/here\nkernel: { prefix: XY, markMask: none }\n`,
    );
    await mkdir(join(bench.dir, 'here'));
    const { code, out, err } = await bench.run('teardown', '--purge');
    expect({ code, out }).toEqual({ code: 0, out: 'removed 5 sets\nnothing is enforced now\n' });
    expect(err).toMatch(
      /unknown key "?bogus.*the configuration is refused: teardown uses .*the state folder is left/s,
    );
    expect(given).toEqual([['XY', join(bench.dir, 'here'), true]]);
    await stat(join(bench.dir, 'here'));
    await writeFile(bench.config, 'kernel: { prefix: not-a-prefix }\n');
    expect((await bench.run('teardown')).code).toBe(0);
    expect(given.at(-1)).toEqual(['DB', expect.any(String), true]);
  });

  it('does not say that nothing is enforced while a service by another configuration runs', async () => {
    bench.host = { teardownKernel: async () => ['5 sets'], isServed: async () => true };
    const { code, out, err } = await bench.run('teardown');
    expect({ code, out }).toEqual({ code: 1, out: '' });
    expect(err).toMatch(
      /another Drawbridge with another configuration runs on this host.*\n.*teardown --config FILE/,
    );
  });

  it('says what is wrong with the configuration, at its place', async () => {
    await writeFile(bench.config, 'defualt: enforce\n');
    expect((await bench.run('status')).err).toMatch(
      /config\.yaml:1:1: unknown key "?defualt"?\n {2}→ did you mean "default"/,
    );
  });

  it('asks a service that runs, whatever other sections have; without it, their errors are the answer', async () => {
    await bench.serve();
    await writeFile(bench.config, `api:\n  listen: unix:${bench.socket}\nlog:\n  level: lout\n`);
    expect((await bench.run('status')).code).toBe(0);
    await writeFile(bench.config, `api:\n  listen: unix:${bench.socket}.none\nlog:\n  level: lout\n`);
    const { code, err } = await bench.run('status');
    expect(code).toBe(1);
    expect(err).toMatch(/config\.yaml:4:.*log\.level/);
    expect(err).not.toMatch(/start it/);
    await writeFile(bench.config, `api:\n  listen: unix:${bench.socket}.none\n`);
    expect((await bench.run('status')).err).toMatch(/start it/);
  });
});

describe('pause, lockdown and audit', () => {
  it('ask for what was said, and say what holds', async () => {
    const one = await bench.run('pause', 'web', '--for', '10m');
    expect([one.code, one.out]).toEqual([0, 'web: not enforced until 2030-01-01T00:10:00.000Z\n']);
    await bench.run('pause', '--all', '--for', '1m');
    await bench.run('pause', 'web', '--end');
    await bench.run('pause', '--all', '--end');
    const on = await bench.run('lockdown');
    expect(on.out).toMatch(/^lockdown since 2030-01-01T00:00:00.000Z by local:ann: no container/);
    expect((await bench.run('status')).out).toMatch(/^LOCKDOWN since .* by local:ann/m);
    expect((await bench.run('lockdown', '--off')).out).toMatch(/^no lockdown/);
    expect(bench.controller.calls).toEqual([
      ['pause', 'web', 600_000, 'local:ann'],
      ['pause', undefined, 60_000, 'local:ann'],
      ['endPause', 'web', 'local:ann'],
      ['endPause', undefined, 'local:ann'],
      ['setLockdown', true, 'local:ann'],
      ['setLockdown', false, 'local:ann'],
    ]);
  });

  it('shows who changed what, long values cut short', async () => {
    bench.controller.audited = [
      {
        time: '2030-01-01T00:00:00.000Z',
        who: 'local:ann',
        action: 'list.put',
        target: 'ci',
        before: null,
        after: { allow: ['a'.repeat(300)] },
        outcome: 'done',
      },
    ];
    const { out } = await bench.run('audit');
    expect(out.trimEnd().split('\t').slice(0, 6)).toEqual([
      '2030-01-01T00:00:00.000Z',
      'local:ann',
      'list.put',
      'ci',
      'done',
      '-',
    ]);
    expect(out.trimEnd().endsWith('…')).toBe(true);
    expect(JSON.parse((await bench.run('audit', '--json')).out)).toEqual(bench.controller.audited);
  });
});

describe('scan', () => {
  it('lists what was found; with --exit-code that is a failure', async () => {
    expect(await bench.run('scan', '--exit-code')).toMatchObject({
      code: 0,
      out: '',
      err: 'nothing was found\n',
    });
    const finding = { code: 'root-user', detail: 'it runs as root', remedy: 'set a user' } as const;
    const socket = { code: 'docker-socket', detail: 'it can reach it', remedy: 'do not' } as const;
    bench.controller.scanned = [
      { container: null, image: null, findings: [] },
      {
        container: 'web',
        image: 'busybox',
        findings: [
          { ...socket, kind: 'coverage', state: 'unenforced' },
          { ...finding, kind: 'practice', state: 'enforced' },
        ],
      },
    ];
    const ran = await bench.run('scan', 'web');
    expect([ran.code, ran.out.split('\n')]).toEqual([
      0,
      [
        'web\tcoverage\tunenforced\tdocker-socket\tit can reach it\tdo not',
        'web\tpractice\t-\troot-user\tit runs as root\tset a user',
        '',
      ],
    ]);
    expect((await bench.run('scan', '--exit-code', '--json')).code).toBe(1);
    expect(bench.controller.calls).toEqual([
      ['scan', undefined],
      ['scan', 'web'],
      ['scan', undefined],
    ]);
  });
});

describe('guard', () => {
  it('says what stands, and whom it leaves alone', async () => {
    expect((await bench.run('guard')).out).toMatch(/^the default-deny rules are installed: /);
    bench.host = { layGuard: async () => ({ outcome: 'stands', exempt: ['vethlxc'] }) };
    expect((await bench.run('guard')).out).toMatch(
      /^Drawbridge rules are already installed: .*\nleft alone: vethlxc\n$/,
    );
  });

  it('works with a configuration that is refused, and says what it could not do', async () => {
    const laid: string[] = [];
    bench.host = {
      layGuard: async (config) => {
        laid.push(config.kernel.prefix);
        return { outcome: 'laid', exempt: [], notes: ['cannot note in /state'] };
      },
    };
    await writeFile(bench.config, 'kernel: { prefix: XY }\ndnss: {}\n');
    const ran = await bench.run('guard');
    expect([ran.code, laid]).toEqual([0, ['XY']]);
    expect(ran.err).toMatch(/dnss.*the configuration is refused.*cannot note in/s);
  });
});

describe('usage', () => {
  it.each([
    [['bogus']],
    [['allow', 'web']],
    [['ps', '--bogus']],
    [['lists', 'bogus']],
    [[]],
    [['run', '--bogus', 'x']],
    [['run', 'x']],
    [['pause', '--for', '10m']],
    [['pause', 'web', '--all', '--for', '10m']],
    [['pause', 'web']],
    [['pause', 'web', '--end', '--for', '10m']],
    [['audit', '--limit', 'x']],
  ])('%j is wrong usage', async (argv) => {
    expect((await bench.run(...argv)).code).toBe(2);
  });

  it('has help with examples for every command', async () => {
    const help = (await bench.run('--help')).out;
    const names = [...help.matchAll(/^ {2}([a-z]+) /gm)].map((m) => m[1] ?? '').filter((n) => n !== 'help');
    expect(names).toEqual([
      'status',
      'ps',
      'inspect',
      'explain',
      'flows',
      'allow',
      'revoke',
      'mode',
      'suggest',
      'pause',
      'lockdown',
      'ask',
      'lists',
      'check',
      'sync',
      'export',
      'import',
      'feeds',
      'threats',
      'notify',
      'scan',
      'audit',
      'plan',
      'nodes',
      'doctor',
      'bugreport',
      'run',
      'guard',
      'tokens',
      'store',
      'teardown',
      'completion',
      'version',
    ]);
    for (const name of names) {
      const { code, out } = await bench.run(name, '--help');
      expect(code).toBe(0);
      expect(out).toMatch(/--json.*--config.*Examples:\n {2}\$ drawbridge/s);
    }
  });
});

it('teardown through the service waits until it has ended', async () => {
  const teardown = bench.controller.teardown.bind(bench.controller);
  bench.controller.teardown = async () => {
    await teardown();
    setImmediate(() => void bench.stopServing());
  };
  expect(await ok('teardown')).toContain('nothing is enforced now');
  expect(bench.controller.tornDown).toBe(1);
});
