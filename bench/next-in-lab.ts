/** Puts programs of BPF (next-design.ts) in place of some chains of a lab, next to rules of a Drawbridge that is stopped. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { Btf } from '../src/kernel/bpf.js';
import { layoutMarks } from '../src/ruleset/marks.js';
import type { Lab } from '../test/lab/lab.js';
import { shape } from '../test/pure/ruleset/sample.js';
import { Attached, designsOf, type Sender, type Site } from './next-design.js';

const CGROUPS = '/sys/fs/cgroup';

/**
 * Change the rules for the design with a name, of which the parts with " + " between them are for several senders: undefined without a name.
 * Returns what attaches its programs.
 */
export async function nextDesign(
  lab: Lab,
  sender: Sender = 'bridged',
  name?: string,
): Promise<(() => Attached) | undefined> {
  if (name === undefined) return undefined;
  const site = await siteOf(lab);
  const ofSender = (of: Sender) => designsOf(of, site.marks, site.hosted);
  const all = [...ofSender(sender), ...ofSender(sender.startsWith('host') ? 'to-host' : 'to-bridged')];
  const designs = name.split(' + ').map((n) => {
    const found = all.find((d) => d.name === `next design: ${n}`);
    if (!found) throw new Error(`no design ${n} of ${all.map((d) => d.name).join('; ')}`);
    return found;
  });
  const design = {
    name,
    without: designs.flatMap((d) => d.without),
    parts: designs.flatMap((d) => d.parts),
  };
  for (const command of design.without) await lab.inHost([...command], { check: true });
  const btf = new Btf();
  return () => new Attached(design, site, btf);
}

interface Link {
  readonly ifindex: number;
  readonly address: string;
}
/** What the rules in the lab say about the first container on a bridge, the gate, and a container in the host's network. */
async function siteOf(lab: Lab): Promise<Site> {
  const text = async (...argv: readonly string[]): Promise<string> =>
    (await lab.inHost([...argv], { check: true })).stdout;
  const linkOf = async (dev: string): Promise<Link & { readonly master?: string }> =>
    (JSON.parse(await text('ip', '-j', 'link', 'show', dev)) as [Link])[0];
  const routed = await text('nft', 'list', 'map', 'bridge', 'drawbridge', 'routed4');
  const [, ifname = '', head = '', ip4 = '', mark = '0'] =
    /"([^"]+)" \. 0x0*([0-9a-f]{1,30}) \. ([\d.]+) : 0x([0-9a-f]+)/.exec(routed) ?? [];
  const macs = head.padStart(30, '0').match(/../g) ?? [];
  const veth = await linkOf(ifname);
  const bridge = await linkOf(veth.master ?? '');
  const host = await text('nft', 'list', 'table', 'inet', 'drawbridge_host');
  const cgroup = (match: RegExpExecArray | null): Site['gate'] => {
    const [, level = '0', path = ''] = match ?? [];
    const folder = join(CGROUPS, path);
    return { folder, object: String(statSync(folder, { bigint: true }).ino), level: Number(level) };
  };
  const gate = /socket cgroupv2 level (\d+) "([^"]+)" goto senders/.exec(host);
  const sender = /socket cgroupv2 level (\d+) "([^"]+)" meta mark set meta mark & 0x\w+ \| (0x\w+) goto/.exec(
    host,
  );
  const marks = layoutMarks(shape.marks.all);
  const identityOf = (value: number): number => ((value & marks.identity) >>> 0) >>> marks.shift;
  return {
    namespace: lab.hostNetns,
    marks,
    bridge: { ifindex: bridge.ifindex, mac: macs.slice(0, 6).join(':') },
    veth: { ifindex: veth.ifindex, mac: macs.slice(6, 12).join(':'), ip4 },
    bridged: identityOf(Number.parseInt(mark, 16)),
    hosted: identityOf(Number(sender?.[3] ?? 0)),
    gate: cgroup(gate),
    sender: cgroup(sender ?? gate),
  };
}
