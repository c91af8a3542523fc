/** A report of a bug contains what helps, no secret, and no destination that was not asked for. */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Destinations, ownRules, ownSets, withoutSecrets } from '../../../src/cli/bugreport-command.js';
import { Bench } from './bench.js';

const SECRETS = ['s3cret', 'hunter2', 'T0K/B0K', 'a-token-that-is-long'];
const CONFIG = `
store: { redis: "redis://user:hunter2@127.0.0.1:6379/0" }
threats: { feeds: [ { name: bad, url: "https://feeds.example.org/list.txt?key=s3cret" } ] }
`;
const LOG =
  'refused files.example.com at 203.0.113.9 for web (172.17.0.2); see /etc/drawbridge/config.yaml and label drawbridge.allow\n';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
  await writeFile(
    bench.config,
    `api: { listen: "unix:${bench.socket}" }\nstate: ${join(bench.dir, 'state')}\n${CONFIG}`,
  );
  bench.host = { hostReport: async () => new Map([['log.txt', LOG]]) };
});
afterEach(() => bench.end());

async function report(
  ...options: string[]
): Promise<{ readonly files: Record<string, string>; readonly out: string }> {
  const folder = join(bench.dir, 'report');
  const { code, out, err } = await bench.run('bugreport', '--out', folder, ...options);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect((await stat(folder)).mode & 0o777).toBe(0o700);
  const files: Record<string, string> = {};
  for (const name of await readdir(folder)) {
    expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
    files[name] = await readFile(join(folder, name), 'utf8');
  }
  return { files, out };
}

it('leaves secrets and destinations out, and asks to read it', async () => {
  const { files, out } = await report();
  expect(out).toMatch(/Read every file before you send it\..*tar -C .* -czf/s);
  const all = Object.values(files).join('\n');
  for (const left of [
    ...SECRETS,
    'api.github.com',
    'files.example.com',
    '140.82.112.3',
    '203.0.113.9',
    'npmjs',
  ])
    expect(all).not.toContain(left);
  expect(files['containers.json']).toMatch(/"entry": "<name \d+>"/);
  expect(files['log.txt']).toMatch(
    /^refused <name \d+> at <address \d+> for web \(172\.17\.0\.2\); see \/etc\/drawbridge\/config\.yaml and label drawbridge\.allow$/m,
  );
  expect(JSON.parse(files['status.json'] ?? '')).toMatchObject({ enforced: 3 });
  expect(JSON.parse(files['lists.json'] ?? '')).toMatchObject([{ name: 'npm', entries: 2 }]);
  expect(JSON.parse(files['config.json'] ?? '')).toMatchObject({
    content: { store: { redis: 'redis://127.0.0.1:6379/(removed)' } },
  });
});

it('has destinations where that is asked for, and secrets never', async () => {
  const { files } = await report('--with-names');
  const all = Object.values(files).join('\n');
  expect(all).toContain('api.github.com');
  expect(all).toContain('203.0.113.9');
  for (const secret of SECRETS) expect(all).not.toContain(secret);
});

it('is made without the service and with a configuration that is refused; a folder that exists is left alone', async () => {
  await bench.stopServing();
  await writeFile(bench.config, 'api: [\ntokn: s3cret\n');
  const { files } = await report();
  expect(files['status.json']).toContain('error');
  expect(Object.values(files).join('\n')).not.toContain('s3cret');
  const again = await bench.run('bugreport', '--out', join(bench.dir, 'report'));
  expect(again).toMatchObject({ code: 1, err: expect.stringContaining('EEXIST') });
});

it.each([
  [
    { tokens: [{ name: 'ci', token: 'a-token-that-is-long' }] },
    { tokens: [{ name: 'ci', token: '(removed)' }] },
  ],
  [{ url: 'https://hooks.example/T0K/B0K' }, { url: 'https://hooks.example/(removed)' }],
  [{ secret_file: '/etc/x' }, { secret_file: '/etc/x' }],
  [{ password: ['hunter2'] }, { password: ['(removed)'] }],
  [{ listen: 'unix:/run/drawbridge/api.sock' }, { listen: 'unix:/run/drawbridge/api.sock' }],
  [{ proxy: 'http://u:hunter2@proxy.example:3128' }, { proxy: 'http://proxy.example:3128/(removed)' }],
  [{ redis: 'redis://:p@ss@10.0.0.1' }, { redis: 'redis://10.0.0.1/(removed)' }],
])('%j without secrets', (given, expected) => expect(withoutSecrets(given)).toEqual(expected));

it('the same destination has the same number; own addresses stay unless they are an entry', () => {
  const destinations = new Destinations();
  destinations.learn('*.corp.internal');
  destinations.learn('10.1.2.3:5432');
  destinations.learn({ to: '[2001:db8::7]:443' });
  expect(
    destinations.leftOut(
      'db.corp.internal *.corp.internal 10.1.2.3 10.9.9.9 2001:db8::7 8.8.8.8 8.8.8.8 fe80::1 v1.2.3',
    ),
  ).toBe('<name 2> *.<name 1> <address 1> 10.9.9.9 <address 2> <address 3> <address 3> fe80::1 v1.2.3');
});

it('of the rules and sets only those of Drawbridge', () => {
  const rules =
    '*filter\n:DOCKER - [0:0]\n:DB-FORWARD - [0:0]\n-A FORWARD -j DB-FORWARD\n-A FORWARD -d 8.8.8.8 -j ACCEPT\n-A DB-FORWARD -j RETURN\nCOMMIT\n';
  expect(ownRules(rules, 'DB')).toBe(
    '*filter\n:DB-FORWARD - [0:0]\n-A FORWARD -j DB-FORWARD\n-A DB-FORWARD -j RETURN\nCOMMIT\n',
  );
  expect(ownSets('Name: DB-x\nType: hash:ip\n\nName: other\nType: hash:ip\n', 'DB')).toBe(
    'Name: DB-x\nType: hash:ip\n\n',
  );
});
