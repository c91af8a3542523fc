/**
 * Labels of an image name a compose project, a stack or a swarm service that its containers do not belong to. The controls
 * run before Drawbridge is started, because only Drawbridge evaluates these labels.
 */
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { heard, listen } from './listener.js';
import type { Family } from './report.js';
import { type Attempt, attackSuite, PERMITTED, PROGRAMS, seen, type Technique } from './technique.js';

const PORT = 7000;
const BOTH: readonly Family[] = ['v4', 'v6'];
const NETWORK = 'shop_default';
const ALLOW = { 'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80` };
const OFF = { 'drawbridge.mode': 'off' };
const OWN_ID =
  'compose labels count when com.docker.compose.image is the ID of its image, which no image can know';

const compose = (service: string, project = 'shop') => ({
  'com.docker.compose.project': project,
  'com.docker.compose.service': service,
});
/** All labels that compose writes, as in an image that docker commit has made of a container. */
const everything = (service: string, project?: string) => ({
  ...compose(service, project),
  'com.docker.compose.config-hash': 'c'.repeat(64),
  'com.docker.compose.container-number': '1',
  'com.docker.compose.image': `sha256:${'0'.repeat(64)}`,
  'com.docker.compose.oneoff': 'False',
  'com.docker.compose.version': '2.26.1',
});
const STACK = {
  'com.docker.stack.namespace': 'stack-ci',
  'com.docker.swarm.service.name': 'stack-ci_web',
  'com.docker.swarm.task': '',
  'com.docker.swarm.task.id': 'q1w2e3r4t5y6u7i8o9p0a1s2d',
};
/** Permitted by name only, with an address of one family each. */
const GOOD = { v4: 'v4.good.example', v6: 'v6.good.example' } as const;
const claim = (label: string, value: string): string =>
  JSON.stringify({ match: { labels: { [label]: value } }, allow: [`any:${PORT}/udp`] });

/** A member of the project, and containers whose images claim to be members. */
let db: Container;
let mate: Container;
let store: Container;
const addressOf = async (a: Attempt, c: Container): Promise<string> => {
  const { ip4, ip6 } = await c.addresses(NETWORK);
  return a.family === 'v4' ? ip4 : ip6;
};
/** Sends to the address again and again, as the first and only command of a container of its own. */
async function spray(a: Attempt, to: string, spec: RunSpec): Promise<void> {
  const what = JSON.stringify({ to: [to], port: PORT, text: a.tag, everyMs: 200, forMs: 2000 });
  await a.lab.run(
    { ...spec, mounts: [PROGRAMS], cmd: ['node', '/attacks/spray.mjs', what] },
    { timeoutMs: 60_000 },
  );
}
const abroad = (spec: RunSpec): Pick<Technique, 'families' | 'attack' | 'reached'> => ({
  families: BOTH,
  attack: (a) => spray(a, a.target, spec),
  reached: (a) => seen(a),
});
const nextDoor = (
  target: () => Container,
  spec: RunSpec,
): Pick<Technique, 'families' | 'attack' | 'reached'> => ({
  families: BOTH,
  attack: async (a) => spray(a, await addressOf(a, target()), { network: NETWORK, ...spec }),
  reached: (a) => heard(a, target()),
});

/** Attempts in which the app was given the address of the image's container. */
const taken = new Set<string>();
/** In the control the container has the name as a network alias, which Docker resolves. */
async function takeName(a: Attempt): Promise<void> {
  const name = GOOD[a.family];
  const image = await a.lab.image(`named-${a.family}:1`, { labels: everything(name) });
  const args = a.side === 'control' ? ['--network-alias', name] : [];
  const poser = await a.lab.start({ network: NETWORK, image, args, labels: OFF });
  const app = await a.lab.start({ network: NETWORK, labels: { 'drawbridge.allow': `${name}:80` } });
  const told = await app.probe('dns', '127.0.0.11', name, a.family === 'v4' ? 'A' : 'AAAA');
  if (told.addresses?.length !== 1) throw new Error(`no address of ${name}: ${JSON.stringify(told)}`);
  if (told.addresses[0] === (await addressOf(a, poser))) taken.add(a.tag);
  for (const c of [app, poser]) await c.remove();
}

async function prepare(lab: Lab): Promise<void> {
  await lab.docker('network', 'create', '--ipv6', NETWORK);
  await lab.image('joins:1', { labels: everything('web') });
  await lab.image('stores:1', { labels: everything('store') });
  await lab.image('claimed:1', { labels: everything('web', 'ci') });
  await lab.image('stacked:1', { labels: STACK });
  await lab.image('graceful:1', { labels: everything('graced') });
  const ports = [PORT];
  db = await listen(lab, { network: NETWORK, labels: { ...compose('db'), ...OFF }, ports });
  mate = await listen(lab, { network: NETWORK, image: 'joins:1', labels: OFF, ports });
  store = await listen(lab, { network: NETWORK, image: 'stores:1', labels: OFF, ports });
  await lab.dns.set({ [GOOD.v4]: { A: ['93.184.60.1'] }, [GOOD.v6]: { AAAA: ['2600:9000:60::1'] } });
}

attackSuite(
  'labels of images that name foreign projects',
  {
    attacker: { labels: ALLOW },
    control: 'before',
    drawbridge: {
      lists: {
        'project.yaml': claim('com.docker.compose.project', 'ci'),
        'stack.yaml': claim('com.docker.stack.namespace', 'stack-ci'),
        'swarm.yaml': claim('com.docker.swarm.service.name', 'stack-ci_web'),
      },
    },
    prepare,
    enforced: async (lab, drawbridge) => {
      const said = async (labels: Record<string, string>, path: string, body: object): Promise<void> => {
        const c = await lab.start({ name: 'said', labels });
        const known = async (): Promise<boolean> =>
          (await drawbridge.get('/v1/containers/said')).status === 200;
        await waitFor('the container to be known', known);
        const method = path === 'mode' ? 'PUT' : 'POST';
        const r = await drawbridge.request(method, `/v1/containers/said/${path}`, body);
        if (r.status >= 300) throw new Error(`${path}: ${r.status} ${r.body}`);
        await c.remove();
      };
      await said(compose('web'), 'mode', { mode: 'enforce' });
      await said({ ...compose('graced'), ...ALLOW }, 'grants', { entry: `any:${PORT}/udp` });
    },
  },
  [
    {
      id: 'image-project',
      title: 'to a member of a compose project, from an image whose labels claim the same project',
      stoppedBy: OWN_ID,
      ...nextDoor(() => db, { image: 'joins:1', labels: ALLOW }),
    },
    {
      id: 'image-project-target',
      title:
        'from a member of a compose project to an accomplice whose image’s labels claim the same project',
      stoppedBy: OWN_ID,
      ...nextDoor(() => mate, { labels: { ...compose('app'), ...ALLOW } }),
    },
    {
      id: 'image-target',
      title: 'to an accomplice whose image’s labels claim the service of a container: entry',
      stoppedBy: OWN_ID,
      ...nextDoor(() => store, { labels: { 'drawbridge.allow': `container:store:${PORT}/udp` } }),
    },
    {
      id: 'image-name',
      title: 'a permitted public name, which an image takes as the name of its service',
      stoppedBy: "names of containers are those that Docker's own resolver knows, never a label",
      families: BOTH,
      attack: takeName,
      reached: async (a) => taken.has(a.tag),
    },
    {
      id: 'image-leaves-mode',
      title:
        'an image whose labels claim a service that was set to mode enforce, as docker compose build writes them',
      stoppedBy: 'a mode counts for every owner that the labels name where it is stricter',
      ...abroad({ image: 'joins:1' }),
    },
    {
      id: 'image-grant',
      title: 'the grants of a service, by an image whose labels claim that service',
      stoppedBy: OWN_ID,
      ...abroad({ image: 'graceful:1', labels: ALLOW }),
    },
    {
      id: 'image-claim',
      title:
        'the entries of a list that claims a compose project, by an image whose labels claim to be part of it',
      stoppedBy: OWN_ID,
      ...abroad({ image: 'claimed:1' }),
    },
    {
      id: 'image-stack',
      title:
        'the entries of lists that claim a stack or a service of a swarm, by an image whose labels claim to be part of it',
      stoppedBy: 'such labels count only with the random id of a task, which no image can know',
      ...abroad({ image: 'stacked:1' }),
    },
  ],
);
