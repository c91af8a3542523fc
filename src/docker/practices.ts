/** What `scan` looks at, from `GET /containers/ID/json`. Pure. */
import type { ContainerPractices } from '../policy/container.js';
import { asRecord, countAt, type Json, listAt, recordAt, textAt, textsAt } from './json.js';

const EVERYWHERE = new Set(['', '0.0.0.0', '::']);

export function practicesOf(item: Json): ContainerPractices {
  const config = recordAt(item, 'Config');
  const host = recordAt(item, 'HostConfig');
  return {
    user: textAt(config, 'User'),
    envNames: [...new Set(textsAt(config, 'Env').flatMap(nameOfSet))].sort(),
    memoryLimit: countAt(host, 'Memory'),
    // -1 and null are no limit, too; countAt makes both 0.
    pidsLimit: countAt(host, 'PidsLimit'),
    openPorts: openPorts(item, host),
  };
}

/** The name of `NAME=value`; none when the value is empty. */
function nameOfSet(pair: string): string[] {
  const at = pair.indexOf('=');
  return at > 0 && at < pair.length - 1 ? [pair.slice(0, at)] : [];
}

/** NetworkSettings.Ports tells what is bound while it runs, HostConfig.PortBindings what it asked for. */
function openPorts(item: Json, host: Json): readonly string[] {
  const bound = recordAt(recordAt(item, 'NetworkSettings'), 'Ports');
  const ports = Object.keys(bound).length > 0 ? bound : recordAt(host, 'PortBindings');
  const open = Object.keys(ports).flatMap((key) =>
    listAt(ports, key)
      .map(asRecord)
      .filter((b) => EVERYWHERE.has(textAt(b, 'HostIp')))
      .map((b) => `${textAt(b, 'HostPort') || '(any)'}->${key}`),
  );
  return [...new Set(open)].sort();
}
