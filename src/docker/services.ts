/** Names that a swarm's overlay knows, from `GET /networks/ID?verbose=true`. Pure. */
import type { NetworkFacts } from '../policy/container.js';
import { asRecord, canonicalIp, type Json, listAt, recordAt, textAt } from './json.js';

/**
 * A service has a virtual address, or (endpoint mode dnsrr) those of its tasks, which `tasks.SERVICE` always are; each
 * task, on whatever host, has its own. Containers that are no service's stand under the name "".
 */
export function readServices(json: unknown): NonNullable<NetworkFacts['services']> {
  const names = new Map<string, string[]>();
  const add = (name: string, addresses: readonly string[]): void => {
    if (name !== '' && addresses.length > 0)
      names.set(name.toLowerCase(), [...(names.get(name.toLowerCase()) ?? []), ...addresses]);
  };
  for (const [service, value] of Object.entries(recordAt(asRecord(json), 'Services'))) {
    const item = asRecord(value) ?? {};
    const tasks = listAt(item, 'Tasks')
      .map(asRecord)
      .filter((t): t is Json => t !== undefined);
    for (const t of tasks) add(textAt(t, 'Name'), addressOf(t, 'EndpointIP'));
    const ofTasks = tasks.flatMap((t) => addressOf(t, 'EndpointIP'));
    const virtual = addressOf(item, 'VIP');
    if (service === '') continue;
    add(service, virtual.length > 0 ? virtual : ofTasks);
    add(`tasks.${service}`, ofTasks);
  }
  return Object.fromEntries([...names].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function addressOf(item: Json, key: string): string[] {
  const address = canonicalIp(textAt(item, key));
  return address === undefined ? [] : [address];
}
