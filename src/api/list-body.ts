import type { ListView } from '../changes/list-changes.js';
import type { DestEntry, Entry, Flag } from '../policy/entry.js';
import type { ListBody } from './schemas.js';

type Item = ListBody['allow'][number];
type ItemObject = Exclude<Item, string>;

const FLAG_FIELDS: Readonly<Record<Flag, Partial<ItemObject>>> = {
  private: { private: true },
  broad: { broad: true },
  'tls=off': { tls: 'off' },
  'quic=deny': { quic: 'deny' },
  'dns=direct': { dns: 'direct' },
};

/** A list as the API shows it: the YAML's fields, entries as canonical text, or as an object where they carry more. */
export function listBody(list: ListView): ListBody {
  const { allow, hosts, match, ...rest } = list;
  return {
    ...rest,
    ...(hosts ? { hosts: [...hosts] } : {}),
    ...(match ? { match: { ...match } } : {}),
    allow: allow.map(item),
    usedBy: [...list.usedBy],
  };
}

function item(entry: Entry): Item {
  if (entry.kind === 'list' || (entry.comment === undefined && entry.expires === undefined))
    return entry.canonical;
  return {
    to: destText(entry),
    ...Object.assign({}, ...entry.flags.map((flag) => FLAG_FIELDS[flag])),
    ...(entry.comment === undefined ? {} : { comment: entry.comment }),
    ...(entry.expires === undefined ? {} : { expires: entry.expires }),
  };
}

/** The canonical text ends in the flags; what stands before is the destination with ports and protocol. */
function destText(entry: DestEntry): string {
  const flags = entry.flags.map((flag) => ` ${flag}`).join('');
  return entry.canonical.slice(0, entry.canonical.length - flags.length);
}
