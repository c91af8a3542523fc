// Asks a server for a name over UDP, one query at a time, for a while, and prints how long each answer took, in ms; one
// that does not come within two seconds counts as two seconds. Arguments: SERVER NAME SECONDS. For a container's namespace.
import { Resolver } from 'node:dns/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const [server, name, seconds] = process.argv.slice(2);
const resolver = new Resolver({ timeout: 2000, tries: 1 });
resolver.setServers([server]);
const until = Date.now() + Number(seconds) * 1000;
const took = [];
let failed = 0;
while (Date.now() < until) {
  const begun = performance.now();
  await resolver.resolve4(name).catch(() => failed++);
  took.push(performance.now() - begun);
  await sleep(50);
}
process.stdout.write(JSON.stringify({ took, failed }));
