import { createHash } from 'node:crypto';

/**
 * The keys of the store in Redis, all under one prefix:
 *   meta    hash: id (permanent id of this store), revision, tip (nonce of the last batch), floor (newest forgotten deletion),
 *           token (of the last lease)
 *   items   hash: key → JSON             index  sorted set: key → revision
 *   gone    sorted set: deleted key → revision of its deletion; the oldest beyond KEEP are forgotten
 *   marks   sorted set: nonce of a batch → revision after it; the last KEEP. A host compares its history with them
 *   origins hash: key that a host has restored, or whose deletion → "NONCE REVISION" in the history that Redis had lost
 *   leases  hash: lease → "TOKEN UNTIL-MS"   nodes  hash: node → "MS JSON"   blobs  hash: SHA-256 → bytes
 */
const KEYS = ['meta', 'items', 'index', 'gone', 'marks', 'origins', 'leases', 'nodes', 'blobs'] as const;
export type RedisKey = (typeof KEYS)[number];
/** The number of marks and of deletions that Redis and each host remember. */
export const KEEP = 10_000;

export interface Script {
  readonly lua: string;
  readonly sha: string;
  readonly keys: readonly RedisKey[];
}
function script(keys: readonly RedisKey[], body: string): Script {
  const names = keys.map((key, i) => `local ${key} = KEYS[${i + 1}]`).join('\n');
  const lua = `${names}\n${body}`;
  return { lua, keys, sha: createHash('sha1').update(lua).digest('hex') };
}

/** What a channel's name ends with on which the hosts listen that have a copy of the store. */
export const HELD = ':held';

/** Revisions are doubles in Lua: exact up to 2^53, but tostring() would format them as 1e+15. */
const TEXT = `local function text(n) return string.format('%.17g', n) end
local function clock() local t = redis.call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
`;

/**
 * Commits a batch, if Redis has the history that the host knows. ARGV: channel, random part of the nonce of this batch (the other one is
 * the time in ms by the clock of Redis); id, revision and nonce of the
 * host's position (id "": it has no copy of a store); "1" when no batch may have come after that position; id for a new store;
 * revision that the new ones must exceed ("" for none); number of batches of a lost history that are put back, and their nonces,
 * which become marks; then for each write: op (put, delete, touch), key, expected revision
 * ("" for any), fence ("" or "LEASE TOKEN"), origin ("" or as in `origins`; a deletion with one is recorded though the key is
 * absent), JSON. Reply: "moved" alone when Redis is empty, is another store, or lacks the position; else id, revision, nonce, and a list
 * with for each write "ok REV", "none", "stale REV" or "fenced". A store is founded only while no host that has a copy listens: that host writes its copy instead.
 */
export const COMMIT = script(
  ['meta', 'items', 'index', 'gone', 'marks', 'origins', 'leases'],
  `${TEXT}
local channel, random, id, have, base, isLast, newId, lift, lost = unpack(ARGV, 1, 9)
local nonce = random .. '@' .. text(clock())
local first = 10 + tonumber(lost)
local now = redis.call('HMGET', meta, 'id', 'revision', 'tip')
if (now[1] or '') ~= id then return {'moved'} end
if id == '' then
  if redis.call('PUBLISH', channel .. '${HELD}', '') > 0 then return {'moved'} end
elseif now[3] ~= base or tonumber(now[2]) ~= tonumber(have) then
  local known = redis.call('ZSCORE', marks, base)
  if isLast == '1' or not known or tonumber(known) ~= tonumber(have) then return {'moved'} end
end
local before = tonumber(now[2] or '0')
local revision = before
if lift ~= '' then revision = math.max(revision, tonumber(lift)) + 1 end
for i = 10, first - 1 do redis.call('ZADD', marks, text(revision), ARGV[i]) end
local function fenced(fence)
  if fence == '' then return false end
  local lease, token = string.match(fence, '^(.*) (%d+)$')
  local held, untilMs = string.match(redis.call('HGET', leases, lease) or '', '^(%d+) (%d+)$')
  return held ~= token or tonumber(untilMs) <= clock()
end
local function trim(key)
  local surplus = redis.call('ZCARD', key) - ${KEEP}
  if surplus <= 0 then return nil end
  local last = redis.call('ZRANGE', key, surplus - 1, surplus - 1, 'WITHSCORES')
  for _, old in ipairs(redis.call('ZRANGE', key, 0, surplus - 1)) do
    if key == gone then redis.call('HDEL', origins, old) end
  end
  redis.call('ZREMRANGEBYRANK', key, 0, surplus - 1)
  return last[2]
end
local verdicts = {}
local function write(op, key, want, fence, origin, json)
  local current = tonumber(redis.call('ZSCORE', index, key) or '0')
  if want ~= '' and tonumber(want) ~= current then return 'stale ' .. text(current) end
  if fenced(fence) then return 'fenced' end
  if op ~= 'put' and current == 0 and origin == '' then return 'none' end
  revision = revision + 1
  if op == 'put' then
    redis.call('HSET', items, key, json)
    redis.call('ZREM', gone, key)
  end
  if op == 'delete' then
    redis.call('HDEL', items, key)
    redis.call('ZREM', index, key)
    redis.call('ZADD', gone, text(revision), key)
  else
    redis.call('ZADD', index, text(revision), key)
  end
  -- After the value: HDEL is permitted when memory is short, and then all that follows it.
  if origin ~= '' then redis.call('HSET', origins, key, origin)
  elseif op ~= 'touch' then redis.call('HDEL', origins, key) end
  return 'ok ' .. text(revision)
end
for i = first, #ARGV, 6 do
  table.insert(verdicts, write(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]))
end
if revision > before then
  redis.call('HSETNX', meta, 'id', newId)
  redis.call('HSET', meta, 'revision', text(revision), 'tip', nonce)
  redis.call('ZADD', marks, text(revision), nonce)
  trim(marks)
  local floor = trim(gone)
  if floor then redis.call('HSET', meta, 'floor', floor) end
  redis.call('PUBLISH', channel, text(revision))
end
return {redis.call('HGET', meta, 'id') or '', text(revision), nonce, verdicts}
`,
);

/** How the history of Redis continues a position of a host. */
const RELATION = `${TEXT}
local function relation(now, id, have, nonce)
  if not now[1] then return 'empty' end
  if now[1] ~= id then return 'other' end
  local mine = redis.call('ZSCORE', marks, nonce)
  if mine and tonumber(mine) == tonumber(have) then
    return tonumber(now[4] or '0') > tonumber(have) and 'behind' or 'delta'
  end
  local oldest = redis.call('ZRANGE', marks, 0, 0, 'WITHSCORES')
  return oldest[2] and tonumber(oldest[2]) > tonumber(have) and 'forgotten' or 'diverged'
end
`;

/**
 * Returns the changes since a position. ARGV: id, revision and nonce of the host, most rows, most marks. Reply: a word
 *   same · empty · other (another store's id) · behind (too old for a delta) · forgotten (older than all marks) · diverged (not in
 *   the history of Redis), or
 *   delta: revision, nonce, [nonce, revision…] of the batches between, [key, revision, JSON or nil, origin or nil…] by revision.
 * A delta ends with a whole batch.
 */
export const PULL = script(
  ['meta', 'items', 'index', 'gone', 'marks', 'origins'],
  `${RELATION}
local id, have, nonce, mostRows, mostMarks = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = redis.call('HMGET', meta, 'id', 'revision', 'tip', 'floor')
if now[1] == id and now[3] == nonce and tonumber(now[2]) == tonumber(have) then return {'same'} end
local found = relation(now, id, have, nonce)
if found ~= 'delta' then return {found} end
local rows = {}
for _, set in ipairs({index, gone}) do
  local found = redis.call('ZRANGEBYSCORE', set, '(' .. have, '+inf', 'WITHSCORES', 'LIMIT', 0, mostRows + 1)
  for i = 1, #found, 2 do table.insert(rows, {found[i], tonumber(found[i + 1]), set == index}) end
end
table.sort(rows, function(a, b) return a[2] < b[2] end)
local revision, tip = tonumber(now[2]), now[3]
if #rows > mostRows then
  local whole = redis.call('ZREVRANGEBYSCORE', marks, text(rows[mostRows][2]), '(' .. have, 'WITHSCORES', 'LIMIT', 0, 1)
  if not whole[1] then return {'behind'} end
  tip, revision = whole[1], tonumber(whole[2])
end
local reply = {}
for _, row in ipairs(rows) do
  if row[2] > revision then break end
  reply[#reply + 1] = row[1]
  reply[#reply + 1] = text(row[2])
  reply[#reply + 1] = row[3] and redis.call('HGET', items, row[1]) or false
  reply[#reply + 1] = redis.call('HGET', origins, row[1])
end
local between = redis.call('ZREVRANGEBYSCORE', marks, text(revision), '(' .. have, 'WITHSCORES', 'LIMIT', 0, mostMarks)
return {'delta', text(revision), tip, between, reply}
`,
);

/**
 * Returns all keys with their revisions. ARGV: id, revision and nonce of the host, then its marks, newest first, as nonce, revision …
 * Reply: the word of PULL, id, revision, tip, revision of the newest mark that Redis has too ("0": none), floor, [key, revision…] of
 * the items, the same of the deletions since the common mark, [nonce, revision…] of the batches since then, newest first, and
 * [key, origin…].
 */
export const SURVEY = script(
  ['meta', 'index', 'gone', 'marks', 'origins'],
  `${RELATION}
local now = redis.call('HMGET', meta, 'id', 'revision', 'tip', 'floor')
local common = '0'
for i = 4, #ARGV, 2 do
  local score = redis.call('ZSCORE', marks, ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then common = ARGV[i + 1]; break end
end
local after = '(' .. common
return {relation(now, ARGV[1], ARGV[2], ARGV[3]), now[1] or '', now[2] or '0', now[3] or '', common, now[4] or '0',
  redis.call('ZRANGE', index, 0, -1, 'WITHSCORES'),
  redis.call('ZRANGEBYSCORE', gone, after, '+inf', 'WITHSCORES'),
  redis.call('ZREVRANGEBYSCORE', marks, '+inf', after, 'WITHSCORES'),
  redis.call('HGETALL', origins)}
`,
);

/**
 * Returns the values of keys, or nothing when this batch is not in the history of Redis any more. ARGV: id, revision and nonce of the
 * batch, then the keys.
 */
export const VALUES = script(
  ['meta', 'items', 'marks'],
  `
local score = redis.call('ZSCORE', marks, ARGV[3])
if redis.call('HGET', meta, 'id') ~= ARGV[1] or not score or tonumber(score) ~= tonumber(ARGV[2]) then return false end
return redis.call('HMGET', items, unpack(ARGV, 4))
`,
);

/**
 * Writes a whole store into a Redis that has none. ARGV: channel, id, revision, nonce, floor, number of marks, of deletions and of
 * origins, then nonce and revision of each mark, key and revision of each deletion, key and origin, and key, revision and JSON of
 * each item. Reply: 1, or 0 when there is a store already.
 */
export const SEED = script(
  ['meta', 'items', 'index', 'gone', 'marks', 'origins'],
  `
if redis.call('HEXISTS', meta, 'id') == 1 then return 0 end
local channel, id, revision, nonce, floor = unpack(ARGV, 1, 5)
local at = 9
local function pairsOf(count, write)
  local last = at + 2 * tonumber(count)
  for i = at, last - 1, 2 do write(ARGV[i], ARGV[i + 1]) end
  at = last
end
redis.call('ZADD', marks, revision, nonce)
pairsOf(ARGV[6], function(mark, after) redis.call('ZADD', marks, after, mark) end)
pairsOf(ARGV[7], function(key, deleted) redis.call('ZADD', gone, deleted, key) end)
pairsOf(ARGV[8], function(key, origin) redis.call('HSET', origins, key, origin) end)
for i = at, #ARGV, 3 do
  redis.call('ZADD', index, ARGV[i + 1], ARGV[i])
  redis.call('HSET', items, ARGV[i], ARGV[i + 2])
end
redis.call('HSET', meta, 'id', id, 'revision', revision, 'tip', nonce, 'floor', floor)
redis.call('PUBLISH', channel, revision)
return 1
`,
);

/**
 * ARGV: acquire, lease, ms → token or 0 · renew, lease, ms, token → 1 or 0 · release, lease, "0", token → 1 or 0. Tokens follow the
 * clock, so that a Redis that was emptied gives none twice.
 */
export const LEASE = script(
  ['meta', 'leases'],
  `${TEXT}
local op, lease, ms, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local held, untilMs = string.match(redis.call('HGET', leases, lease) or '', '^(%d+) (%d+)$')
local live = held and tonumber(untilMs) > clock()
if op == 'acquire' then
  if live then return 0 end
  token = text(math.max(tonumber(redis.call('HGET', meta, 'token') or '0') + 1, clock()))
  redis.call('HSET', meta, 'token', token)
elseif not live or held ~= token then
  return 0
end
if op == 'release' then redis.call('HDEL', leases, lease)
else redis.call('HSET', leases, lease, token .. ' ' .. text(clock() + ms)) end
return op == 'acquire' and tonumber(token) or 1
`,
);

/** ARGV: none → [node, "AGE-MS JSON"…]; node, JSON → stores its heartbeat. */
export const BEAT = script(
  ['nodes'],
  `${TEXT}
if ARGV[1] then return redis.call('HSET', nodes, ARGV[1], text(clock()) .. ' ' .. ARGV[2]) end
local all = redis.call('HGETALL', nodes)
for i = 2, #all, 2 do
  local at, json = string.match(all[i], '^(%d+) (.*)$')
  all[i] = text(clock() - tonumber(at)) .. ' ' .. json
end
return all
`,
);

/** True when Redis refused the command, so that nothing was changed. After other errors the command may have been executed. */
export const isRefusal = (e: unknown): e is Error => e instanceof Error && e.name === 'ReplyError';
