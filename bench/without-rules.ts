/**
 * Takes the rules of a running Drawbridge out of the packets' path of a lab, and puts them back, within some 50 ms: both sides of a
 * comparison then have the same namespaces, veths, processes and memory. Drawbridge is stopped (SIGSTOP) in both, so that it repairs
 * nothing. Out means what bare Docker has: the tables that Drawbridge has made are dormant, which takes their hooks from the kernel, its
 * rules and base chains are deleted from the tables of Docker, and bridges learn from the veths of containers again. Chains and sets that
 * no rule refers to then, and two addresses of `lo`, are left: no packet meets them.
 */
import type { Drawbridge } from '../test/lab/drawbridge.js';
import type { KernelSnapshot } from '../test/lab/kernel-snapshot.js';
import type { Lab } from '../test/lab/lab.js';
import { waitFor } from '../test/lab/process.js';

const FAMILIES = { ip: 'iptables', ip6: 'ip6tables' } as const;
type Family = keyof typeof FAMILIES;

/** What was there before Drawbridge started. */
export interface Bare {
  readonly tables: ReadonlySet<string>;
  /** As "FAMILY TABLE CHAIN". */
  readonly hooks: ReadonlySet<string>;
}
interface Chain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly hook?: string;
}
type Listed = readonly { readonly chain?: Chain; readonly table?: Omit<Chain, 'table'> }[];

async function listed(lab: Lab, what: 'tables' | 'chains'): Promise<Listed> {
  const { stdout } = await lab.inHost(['nft', '-j', 'list', what], { check: true });
  return (JSON.parse(stdout) as { nftables: Listed }).nftables;
}
const tablesOf = async (lab: Lab): Promise<string[]> =>
  (await listed(lab, 'tables')).flatMap(({ table: t }) => (t ? [`${t.family} ${t.name}`] : []));
const hooksOf = async (lab: Lab): Promise<string[]> =>
  (await listed(lab, 'chains')).flatMap(({ chain: c }) =>
    c?.hook ? [`${c.family} ${c.table} ${c.name}`] : [],
  );

/** To be called before Drawbridge starts. */
export const bareRules = async (lab: Lab): Promise<Bare> => ({
  tables: new Set(await tablesOf(lab)),
  hooks: new Set(await hooksOf(lab)),
});

/** A rule of Drawbridge in a chain of Docker or of the kernel. */
interface Jump {
  readonly table: string;
  readonly chain: string;
  readonly index: number;
  readonly rule: string;
}
const OURS = /--comment "DB:/;

/** @param saved What iptables-save prints. */
function jumpsIn(saved: string): Jump[] {
  const jumps: Jump[] = [];
  const lengths = new Map<string, number>();
  let table = '';
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) table = line.slice(1);
    const [, chain = '', rule = ''] = /^-A (\S+) (.*)$/.exec(line) ?? [];
    if (chain === '' || chain.startsWith('DB-')) continue;
    const index = (lengths.get(`${table} ${chain}`) ?? 0) + 1;
    lengths.set(`${table} ${chain}`, index);
    if (OURS.test(rule)) jumps.push({ table, chain, index, rule });
  }
  return jumps;
}

/** For iptables-restore --noflush. */
function restoreScript(jumps: readonly Jump[], line: (jump: Jump) => string): string {
  const tables = [...new Set(jumps.map((j) => j.table))];
  const part = (table: string): string =>
    jumps.flatMap((j) => (j.table === table ? [`${line(j)}\n`] : [])).join('');
  return tables.map((t) => `*${t}\n${part(t)}COMMIT\n`).join('');
}

/** What takes something of Drawbridge away, and what restores it. */
interface Scripts {
  readonly out: string;
  readonly back: string;
}
interface Port {
  readonly ifname: string;
  readonly learning: boolean;
  readonly flood: boolean;
}
interface Entry {
  readonly mac: string;
  readonly ifname: string;
  readonly flags: readonly string[];
}
/** Lines of `bridge -batch` that undo what Drawbridge has set at the bridges, and that set it again. */
async function bridgeLines(lab: Lab): Promise<Scripts> {
  const json = async (...argv: readonly string[]): Promise<unknown> =>
    JSON.parse((await lab.inHost(['bridge', '-j', '-d', ...argv], { check: true })).stdout || '[]');
  const ports = ((await json('link', 'show')) as Port[]).filter((p) => !p.learning);
  const entries = ((await json('fdb', 'show')) as Entry[]).filter((e) => e.flags.includes('sticky'));
  const lines = (texts: readonly string[]): string => texts.map((t) => `${t}\n`).join('');
  return {
    out: lines([
      ...entries.map((e) => `fdb del ${e.mac} dev ${e.ifname} master`),
      ...ports.map((p) => `link set dev ${p.ifname} learning on flood on`),
    ]),
    back: lines([
      ...ports.map((p) => `link set dev ${p.ifname} learning off flood ${p.flood ? 'on' : 'off'}`),
      ...entries.map((e) => `fdb replace ${e.mac} dev ${e.ifname} master static sticky`),
    ]),
  };
}

/** What a service that is alive adds again and again: it expires while Drawbridge is stopped. */
const HEARTBEAT = /^add DB-alive/;

/** Lines of the one state that are not in the other: chains may come in another order, rules of a chain may not. */
function difference(before: KernelSnapshot, now: KernelSnapshot): string[] {
  const parts = ({ iptables, ip6tables, ipset, nft }: KernelSnapshot): string[] => [
    ...[iptables, ip6tables, ipset].flatMap((text) => text.split('\n')),
    ...nft
      .replaceAll(/^}$/gm, '')
      .split(/\n+(?=\t?(?:table|chain) )/)
      .map((chain) => chain.trim()),
  ];
  const only = (a: readonly string[], b: readonly string[]): string[] =>
    a.filter((p) => !b.includes(p) && !HEARTBEAT.test(p));
  const [was, is] = [parts(before), parts(now)];
  return [...only(was, is).map((p) => `- ${p}`), ...only(is, was).map((p) => `+ ${p}`)];
}

export class Rules {
  readonly #lab: Lab;
  readonly #bare: Bare;
  readonly #with: KernelSnapshot;
  readonly #scripts: Scripts;
  #isOut = false;

  private constructor(lab: Lab, bare: Bare, snapshot: KernelSnapshot, scripts: Scripts) {
    this.#lab = lab;
    this.#bare = bare;
    this.#with = snapshot;
    this.#scripts = scripts;
  }

  /** Waits until Drawbridge is ready and changes nothing any more, and stops it. `change` then changes the rules, which are not repaired. */
  static async freeze(
    lab: Lab,
    drawbridge: Drawbridge,
    bare: Bare,
    change?: () => Promise<void>,
  ): Promise<Rules> {
    await drawbridge.ready();
    let last = await lab.snapshotKernel();
    await waitFor(
      'the rules to settle',
      async () => {
        const before = last;
        last = await lab.snapshotKernel();
        return difference(before, last).length === 0;
      },
      30_000,
      500,
    );
    drawbridge.kill('SIGSTOP');
    await change?.();
    const parts = { out: '', back: '' };
    for (const [family, tool] of Object.entries(FAMILIES) as [Family, string][]) {
      const { stdout } = await lab.inHost([`${tool}-save`], { check: true });
      const jumps = jumpsIn(stdout).filter((j) => bare.tables.has(`${family} ${j.table}`));
      const restore = (text: string): string => `${tool}-restore -w --noflush <<'E'\n${text}E\n`;
      parts.out += restore(restoreScript(jumps, ({ chain, rule }) => `-D ${chain} ${rule}`));
      parts.back += restore(restoreScript(jumps, ({ chain, index, rule }) => `-I ${chain} ${index} ${rule}`));
    }
    const own = (await tablesOf(lab)).filter((t) => !bare.tables.has(t));
    const inDockers = (await hooksOf(lab)).filter(
      (h) => !bare.hooks.has(h) && !own.some((t) => h.startsWith(`${t} `)),
    );
    const nft = (lines: readonly string[]): string => `nft -f - 2>/dev/null <<'E'\n${lines.join('\n')}\nE\n`;
    const bridge = await bridgeLines(lab);
    const batch = (text: string): string => `bridge -batch - <<'E'\n${text}E\n`;
    return new Rules(lab, bare, await lab.snapshotKernel(), {
      out: `set -e\n${parts.out}${nft([
        ...own.map((t) => `table ${t} { flags dormant; }`),
        ...inDockers.map((h) => `delete chain ${h}`),
      ])}${batch(bridge.out)}`,
      back: `set -e\n${nft(own.map((t) => `table ${t} { }`))}${parts.back}${batch(bridge.back)}`,
    });
  }

  async #run(script: string): Promise<void> {
    await this.#lab.inHost(['sh'], { input: script, check: true });
  }
  async takeOut(): Promise<void> {
    if (!this.#isOut) await this.#run(this.#scripts.out);
    this.#isOut = true;
  }
  async putBack(): Promise<void> {
    if (this.#isOut) await this.#run(this.#scripts.back);
    this.#isOut = false;
  }

  /** Throws unless the rules are gone when they are out, and are the same as before when they are back. */
  async verify(): Promise<void> {
    await this.takeOut();
    const { nft, iptables, ip6tables } = await this.#lab.snapshotKernel();
    const awake = new Set((await tablesOf(this.#lab)).filter((t) => !isDormant(nft, t)));
    const hooks = (await hooksOf(this.#lab)).filter((h) => awake.has(h.split(' ', 2).join(' ')));
    const more = hooks.filter((h) => !this.#bare.hooks.has(h));
    if (more.length > 0) throw new Error(`hooks are left: ${more.join(', ')}`);
    const missing = [...this.#bare.hooks].filter((h) => !hooks.includes(h));
    if (missing.length > 0) throw new Error(`hooks of Docker are missing: ${missing.join(', ')}`);
    for (const [family, saved] of [
      ['ip', iptables],
      ['ip6', ip6tables],
    ] as const) {
      const left = jumpsIn(saved).filter((j) => this.#bare.tables.has(`${family} ${j.table}`));
      if (left.length > 0) throw new Error(`rules are left: ${JSON.stringify(left)}`);
    }
    await this.putBack();
    const differs = difference(this.#with, await this.#lab.snapshotKernel());
    if (differs.length > 0) throw new Error(`the rules that were put back differ:\n${differs.join('\n')}`);
  }

  /** Lets Drawbridge go on, with its rules. */
  async thaw(drawbridge: Drawbridge): Promise<void> {
    await this.putBack();
    drawbridge.kill('SIGCONT');
  }
}

const isDormant = (ruleset: string, table: string): boolean =>
  ruleset.includes(`table ${table} {\n\tflags dormant\n`);
