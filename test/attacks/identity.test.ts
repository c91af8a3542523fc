/** To be taken for somebody else, or for nobody: marks, labels, inherited addresses, other legs, shared namespaces. */
import { join } from 'node:path';
import type { Container, RunSpec } from '../lab/container.js';
import { waitFor } from '../lab/process.js';
import { ask } from './dns.js';
import { heard, listen, send } from './listener.js';
import type { Family } from './report.js';
import { type Attempt, asked, attackSuite, PERMITTED, PROGRAMS, seen, type Technique } from './technique.js';

const PORT = 7000;
const BOTH: readonly Family[] = ['v4', 'v6'];
const ALLOW = { 'drawbridge.allow': `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80` };
const SUBNETS = ['--subnet', '172.30.0.0/24', '--subnet', 'fd00:db:f::/64'];
/** Nobody, forwarded sources that are no container, every container of this lab, and each of our flags (default markMask). */
const MARKS = [
  0,
  ...Array.from({ length: 12 }, (_, n) => n + 1),
  0x0800_0000,
  0x7f00_0000,
  0x4000_0000,
  0x7f00_3fff,
];
const MARKED = join(import.meta.dirname, 'programs', 'marked.mjs');
const OWN_NAMESPACE = 'a mark ends at the border of its namespace: the host marks by veth';
const FIRST = 'each veth is bound before its first packet, or the packet is queued';
const IMAGE = 'labels of the image may only tighten';

let neighbour: Container;
const bits = (a: Attempt): number => (a.family === 'v4' ? 32 : 128);
const version = (a: Attempt): string => (a.family === 'v4' ? '-4' : '-6');
const modeOf = (a: Attempt, off = 'off'): Record<string, string> =>
  a.side === 'control' ? { 'drawbridge.mode': off } : {};
/** A label with a fault enforces, whatever the mode: the control is without it. */
const said = (a: Attempt, allow: string): Record<string, string> =>
  a.side === 'control' ? { 'drawbridge.mode': 'off' } : { 'drawbridge.allow': allow };
const spraying = (a: Attempt, more: object = {}): string[] => [
  'node',
  '/attacks/spray.mjs',
  JSON.stringify({ to: [a.target], port: PORT, text: a.tag, everyMs: 200, forMs: 3000, ...more }),
];
/** Sends to the target as the first and only command of a container of its own. */
const once = (a: Attempt, spec: RunSpec): Promise<unknown> =>
  a.lab.run({ ...spec, mounts: [PROGRAMS], cmd: spraying(a) }, { timeoutMs: 60_000 });
const alone = (
  spec: (a: Attempt) => RunSpec | Promise<RunSpec>,
): Pick<Technique, 'families' | 'attack' | 'reached'> => ({
  families: BOTH,
  attack: async (a) => once(a, await spec(a)),
  reached: (a) => seen(a),
});
/** What is told to the neighbour of a network that it joins counts as well. */
const out = async (a: Attempt): Promise<boolean> => {
  const [sent, told] = [await seen(a), await heard(a, neighbour)];
  if (a.side === 'held' && told) {
    const lines = await a.lab.docker('logs', '-t', neighbour.id);
    console.error(
      lines
        .split('\n')
        .filter((l) => l.includes(a.tag))
        .slice(0, 10)
        .join('\n'),
    );
  }
  return sent || told;
};

async function joining(a: Attempt): Promise<void> {
  const { ip4, ip6 } = await neighbour.addresses();
  const to = [a.target, a.family === 'v4' ? ip4 : ip6];
  const c = await a.lab.start({
    labels: { ...ALLOW, ...modeOf(a) },
    mounts: [PROGRAMS],
    cmd: spraying(a, { to, everyMs: 1, forMs: 60_000 }),
  });
  for (let i = 0; i < 4; i++) {
    await a.lab.docker('network', 'connect', 'aside', c.id);
    if (i % 2 === 1) await a.lab.docker('network', 'disconnect', 'bridge', c.id);
    await a.lab.docker('network', 'disconnect', 'aside', c.id);
    if (i % 2 === 1) await a.lab.docker('network', 'connect', 'bridge', c.id);
  }
  await c.remove();
}

attackSuite(
  'identities',
  {
    attacker: { labels: ALLOW },
    prepare: async (lab) => {
      await lab.docker('network', 'create', '--ipv6', 'aside');
      await lab.docker('network', 'create', '--ipv6', ...SUBNETS, 'heir');
      neighbour = await listen(lab, { network: 'aside', ports: [PORT] });
      await lab.image('says-off:1', { labels: { 'drawbridge.mode': 'off' } });
      await lab.dns.set({ '*.co.uk': { A: ['93.184.90.1'], AAAA: ['2600:9000:90::1'] } });
    },
    started: async (lab, attacker) => {
      await lab.docker('network', 'connect', 'aside', attacker.id);
    },
    enforced: async (lab, drawbridge) => {
      const joined = async (): Promise<boolean> =>
        JSON.parse((await drawbridge.get('/v1/containers/attacker-held')).body).addresses.length >= 4;
      await waitFor('the second leg to be known', joined);
      // somebody whose identity would be worth having
      await lab.start({ name: 'rich', labels: { 'drawbridge.allow': 'any:1-65535/tcp+udp' } });
    },
  },
  [
    {
      id: 'mark-socket',
      title: 'a mark set on the socket (SO_MARK) by a privileged container that shares the namespace',
      stoppedBy: OWN_NAMESPACE,
      families: BOTH,
      attack: async (a) => {
        const words = [a.target, PORT, MARKS.join(','), a.tag].map(String);
        const r = await a.asRoot(process.execPath, MARKED, ...words);
        if (!r.stdout.includes(`"marked":${MARKS.length},`))
          throw new Error(`no mark: ${r.stdout}${r.stderr}`);
      },
      reached: (a) => seen(a),
    },
    {
      id: 'mark-rule',
      title: 'a mark set by rules inside the namespace',
      stoppedBy: OWN_NAMESPACE,
      families: BOTH,
      attack: async (a) => {
        const tool = a.family === 'v4' ? 'iptables' : 'ip6tables';
        const rule = ['OUTPUT', '-d', a.target, '-j', 'MARK', '--set-mark', '0x7f003fff'];
        const set = await a.asRoot(tool, '-w', '-t', 'mangle', '-A', ...rule);
        if (set.code !== 0) throw new Error(`no rule: ${set.stderr}`);
        await send(a, [a.target], PORT);
      },
      reached: (a) => seen(a),
    },
    {
      id: 'second-leg',
      title: 'by the second of its networks',
      stoppedBy: "every veth of a container has the container's policy",
      families: BOTH,
      attack: async (a) => {
        const found = await a.asRoot('ip', '-j', 'address', 'show', 'dev', 'eth1');
        if (found.code !== 0) throw new Error(`no second leg: ${found.stderr}`);
        const [{ Gateway, IPv6Gateway }] = Object.values(
          (
            await a.attacker.inspect<{
              NetworkSettings: { Networks: Record<string, Record<string, string>> };
            }>()
          ).NetworkSettings.Networks,
        ).filter((n) => n.Gateway?.startsWith('172.') && n.IPv6Gateway !== 'fd00:db:1::1') as [
          Record<string, string>,
        ];
        const via = a.family === 'v4' ? Gateway : IPv6Gateway;
        const route = ['route', 'add', `${a.target}/${bits(a)}`, 'via', String(via), 'dev', 'eth1'];
        const added = await a.asRoot('ip', version(a), ...route);
        if (added.code !== 0) throw new Error(`no route: ${added.stderr}`);
        await send(a, [a.target], PORT);
      },
      reached: (a) => seen(a),
    },
    {
      id: 'shared-namespace',
      title: 'from another container in the same namespace (container:…) with the label mode=off',
      stoppedBy:
        "the namespace has its owner's policy; labels of the containers that join it are not applied",
      ...alone((a) => ({ network: `container:${a.attacker.id}`, labels: { 'drawbridge.mode': 'off' } })),
    },
    {
      id: 'connect-race',
      title: 'sending all the time while it joins and leaves networks',
      stoppedBy: FIRST,
      families: BOTH,
      attack: joining,
      reached: out,
    },
    {
      id: 'restart-first',
      title: 'in the first instruction after a restart of the container, three times',
      stoppedBy: FIRST,
      families: BOTH,
      attack: async (a) => {
        const cmd = ['sh', '-c', `${spraying(a).slice(0, 2).join(' ')} '${spraying(a)[2]}'; sleep 60`];
        const c = await a.lab.start({ labels: { ...ALLOW, ...modeOf(a) }, mounts: [PROGRAMS], cmd });
        for (let i = 0; i < 3; i++) await a.lab.docker('restart', '-t', '0', c.id);
        const ran = async (): Promise<boolean> => (await c.logs()).includes('"sent"');
        await waitFor('its first instruction', ran, 20_000);
        await c.remove();
      },
      reached: (a) => seen(a),
    },
    {
      id: 'heir',
      title: 'the address and the MAC of a container that was permitted, right after it',
      stoppedBy: 'the binding of a veth is removed before its address is bound again',
      ...alone(async (a) => {
        const n = (a.side === 'held' ? 40 : 20) + (a.family === 'v4' ? 0 : 1);
        const args = [
          '--ip',
          `172.30.0.${n}`,
          '--ip6',
          `fd00:db:f::${n}`,
          '--mac-address',
          `02:42:00:00:00:${n}`,
        ];
        const to = a.family === 'v4' ? a.target : `[${a.target}]`;
        const rich = { network: 'heir', args, labels: { 'drawbridge.allow': `${to}:1-6999/udp` } };
        const first = await a.lab.start({ ...rich, name: `first-${a.tag}` });
        if (a.side === 'held') {
          const may = async (): Promise<boolean> => (await first.probe('udp', a.target, 6000)).ok;
          await waitFor('the first of them', may);
        }
        await first.remove();
        return { network: 'heir', args, labels: { ...ALLOW, ...modeOf(a) } };
      }),
      reached: (a) => seen(a, { dst: a.target, dport: PORT }),
    },
    {
      id: 'image-mode',
      title: 'an image with the label mode=off',
      stoppedBy: IMAGE,
      ...alone((a) => ({ image: 'says-off:1', labels: { ...ALLOW, ...modeOf(a, 'observe') } })),
    },
    {
      id: 'image-allow',
      title: 'an image that permits itself what it wants',
      stoppedBy: IMAGE,
      ...alone(async (a) => {
        const target = a.family === 'v4' ? a.target : `[${a.target}]`;
        const image = `allows-${a.tag}:1`;
        await a.lab.image(image, { labels: { 'drawbridge.allow': `${target}:1-65535/udp` } });
        return { image, labels: modeOf(a) };
      }),
    },
    {
      id: 'label-broken',
      title: 'a label that does not parse',
      stoppedBy: 'a label with a fault enforces, with nothing permitted',
      ...alone((a) => ({ labels: said(a, 'https://*') })),
    },
    {
      id: 'label-wide',
      title: 'a policy of everything (0.0.0.0/0, ::/0), written by mistake',
      stoppedBy: 'networks wider than /8 and /16 need the flag `broad`',
      ...alone((a) => ({ labels: said(a, '0.0.0.0/0:7000/udp, [::/0]:7000/udp') })),
    },
    {
      id: 'label-suffix',
      title: 'a wildcard of a public suffix (*.co.uk) written by mistake',
      stoppedBy: 'wildcards of public suffixes need the flag `broad`',
      families: BOTH,
      attack: async (a) => {
        const attacker = await a.lab.start({ labels: said(a, '*.co.uk'), mounts: [PROGRAMS] });
        await ask({ ...a, attacker }, { name: `${a.tag}.co.uk` });
        await attacker.remove();
      },
      reached: asked,
    },
  ],
);
