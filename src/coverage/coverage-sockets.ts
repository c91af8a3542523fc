import type { Location } from '../kernel/mount-info.js';
import type { ContainerFacts, ToldMount } from '../policy/container.js';
import { type MountFacts, type OwnPlaces, placesOf } from './coverage-places.js';

/** Sockets of programs that few hosts have: only where they exist. */
const RARE = /^\/var\/(lib|snap)\//;
/** Before the kernel has been asked: paths are compared as they are written. */
export function textual(told: readonly ToldMount[], own: OwnPlaces): MountFacts {
  const at = (path: string): Location => ({ device: '', path: canonical(path) });
  return {
    mounted: told
      .filter((t) => t.source.startsWith('/') && t.type !== 'volume')
      .map((t) => ({
        destination: t.destination,
        path: canonical(t.source),
        location: at(t.source),
        isReadOnly: t.isReadOnly,
        type: '',
      })),
    places: placesOf(own, undefined)
      .filter((p) => !p.path.includes('*') && (p.by !== 'connect' || mayBeThere(p.path, told, own)))
      .map((p) => ({ ...p, path: canonical(p.path), location: at(p.path) })),
    dataRoot: undefined,
  };
}

/**
 * A socket that the configuration names, or that is mounted itself, counts as it is written. Others count through a mount of
 * a folder above them: only where they exist, as far as that can be found out.
 */
function mayBeThere(path: string, told: readonly ToldMount[], own: OwnPlaces): boolean {
  const named = [own.dockerSocket, own.apiSocket, own.storeSocket].includes(path);
  if (named || told.some((t) => canonical(t.source) === canonical(path))) return true;
  return own.exists?.(path) ?? !RARE.test(path);
}

/** Of Docker's list of mounts; engines that do not tell it have binds. */
export function toldOf(p: ContainerFacts['privileges']): readonly ToldMount[] {
  const told = p?.mounts ?? [];
  const bound = (p?.binds ?? []).map(parseBind);
  return [...told, ...bound.filter((b) => !told.some((t) => t.destination === b.destination))];
}

function parseBind(text: string): ToldMount {
  const [source = '', destination = '', mode = ''] = text.split(':');
  const type = source.startsWith('/') ? 'bind' : 'volume';
  return { type, name: source, source, destination, isReadOnly: mode.split(',').includes('ro') };
}

/** /var/run is a link to /run on every system that has both. */
export function canonical(path: string): string {
  const plain = path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
  return plain === '/var/run' || plain.startsWith('/var/run/') ? plain.slice('/var'.length) : plain;
}
