import { expect, it } from 'vitest';
import { withFastSets } from '../../../src/kernel/ipset-text.js';

function host(refuses = false) {
  const written: string[] = [];
  const ran: string[] = [];
  const change = (verb: string) => async (set: string, address: string) => {
    if (refuses) throw new Error('no such set');
    written.push(`${verb} ${set} ${address}`);
  };
  const run = withFastSets(
    async (file, args, options) => {
      ran.push(`${file} ${args.join(' ')}: ${options?.input ?? ''}`);
      return { code: 0, stdout: '', stderr: '' };
    },
    { add: change('add'), remove: change('remove') },
  );
  const restore = (input: string) => run('ipset', ['restore'], { input });
  return { written, ran, run, restore };
}

it('adds and removes a few addresses over netlink', async () => {
  const { written, ran, restore } = host();
  await restore('add DB-own4 172.17.0.2 -exist\ndel DB-own6 fd00::2 -exist\nadd DB-x 10.0.0.0/8 -exist\n');
  expect(written).toEqual(['add DB-own4 172.17.0.2', 'remove DB-own6 fd00::2', 'add DB-x 10.0.0.0/8']);
  expect(ran).toEqual([]);
});

it.each([
  'create DB-x hash:ip\nadd DB-x 10.0.0.1 -exist\n',
  'add DB-pub4 172.17.0.2,tcp:80 -exist\n',
  'add DB-cut4 10.0.0.1 timeout 5 -exist\n',
  'destroy DB-x\n',
  `${'add DB-x 10.0.0.1 -exist\n'.repeat(65)}`,
  '',
])('leaves to ipset: %j', async (input) => {
  const { written, ran, restore } = host();
  await restore(input);
  expect([written, ran]).toEqual([[], [`ipset restore: ${input}`]]);
});

it('asks ipset for what netlink refuses, and leaves other tools alone', async () => {
  const { ran, restore, run } = host(true);
  await restore('add DB-x 10.0.0.1 -exist\n');
  await run('nft', ['-f', '-'], { input: 'add DB-x 10.0.0.1 -exist\n' });
  expect(ran).toHaveLength(2);
});
