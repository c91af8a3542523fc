import type { Target } from './target.js';
import { datagrams } from './targets/datagrams.js';
import { dns } from './targets/dns.js';
import { entries } from './targets/entries.js';
import { feeds } from './targets/feeds.js';
import { hellos } from './targets/hellos.js';
import { inspect } from './targets/inspect.js';
import { labels } from './targets/labels.js';
import { lists } from './targets/lists.js';
import { names } from './targets/names.js';
import { netlink } from './targets/netlink.js';
import { requests } from './targets/requests.js';
import { segments } from './targets/segments.js';
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
  hellos,
  datagrams,
  requests,
  segments,
];
