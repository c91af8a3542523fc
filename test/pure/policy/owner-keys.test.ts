import { expect, it } from 'vitest';
import { everythingFromObject } from '../../../src/changes/transfer-changes.js';
import { listFromObject } from '../../../src/policy/list-parse.js';

const read = (document: unknown) =>
  everythingFromObject(document, async (name, source, body) => listFromObject(name, source, body));

it.each(['toString', 'web', 'id:0123', 'compose:shop', 'compose:/web', 'name:', 'name:a b', 'name:../x', ''])(
  'no container has the owner "%s": a mode or grant of it is refused, with its place',
  async (owner) => {
    expect(await read({ modes: { [owner]: 'off' } })).toMatchObject({
      ok: false,
      problems: [
        { pointer: `/modes/${owner.replaceAll('/', '~1')}`, remedy: expect.stringContaining('name:NAME') },
      ],
    });
    expect(await read({ grants: [{ owner, entry: 'a.org' }] })).toMatchObject({ ok: false });
  },
);

it.each(['compose:shop/web', 'name:web', 'name:a_b.c-1'])(
  'a container may have the owner "%s"',
  async (owner) => {
    expect(await read({ modes: { [owner]: 'off' }, grants: [{ owner, entry: 'a.org' }] })).toMatchObject({
      ok: true,
    });
  },
);
