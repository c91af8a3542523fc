import type { Target } from './target.js';
import { dns } from './targets/dns.js';
import { entries } from './targets/entries.js';
import { feeds } from './targets/feeds.js';
import { inspect } from './targets/inspect.js';
import { labels } from './targets/labels.js';
import { lists } from './targets/lists.js';
import { names } from './targets/names.js';
import { netlink } from './targets/netlink.js';
import { server } from './targets/server.js';

export const targets: readonly Target[] = [
  dns,
  server,
  names,
  entries,
  lists,
  netlink,
  inspect,
  labels,
  feeds,
];
