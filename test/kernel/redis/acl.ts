import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The rules of the user in docs/redis.md, word by word. */
const text = readFileSync(join(import.meta.dirname, '../../../docs/redis.md'), 'utf8');
const [, rules = ''] = /^user drawbridge on >PASSWORD (.*)$/m.exec(text) ?? [];
if (rules === '') throw new Error('docs/redis.md has no ACL');
export const ACL = rules.split(' ');
