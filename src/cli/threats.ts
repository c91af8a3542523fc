import type { Command } from 'commander';
import type { ThreatBody } from '../api/schemas-traffic.js';
import type { Registry } from './command.js';
import type { Output } from './output.js';
import { counted } from './text.js';

interface Options {
  readonly exitCode?: boolean;
}

export function threatsCommand(program: Command, registry: Registry): void {
  const threats = registry.add(program, {
    usage: 'threats',
    summary: 'how many addresses and names are blocked for every container; check one',
    examples: ['threats', 'threats check 203.0.113.7'],
    run: async (session) => {
      const { threats: all } = await (await session.client()).status();
      session.out.show(all, () => {
        session.out.line(
          `${counted(all.entries, 'entry', 'entries')} of ${counted(all.feeds, 'feed')} in force, after merging and exceptions (drawbridge feeds)`,
        );
        for (const alert of all.alerts) session.out.line(`ALERT ${alert}`);
      });
      return 0;
    },
  });
  registry.add<[string], Options>(threats, {
    usage: 'check <target>',
    summary: 'which feeds list an address or a name, where, and whether it is blocked',
    options: [['--exit-code', 'exit 1 if it is blocked or observed']],
    examples: [
      'threats check 203.0.113.7',
      'threats check 2001:db8::7',
      'threats check evil.example --exit-code',
    ],
    run: async (session, [target], { exitCode }) => {
      const threat = await (await session.client()).threat(target);
      session.out.show(threat, () => print(session.out, threat));
      return exitCode && threat.verdict !== 'none' ? 1 : 0;
    },
  });
}

const VERDICTS = {
  block: 'blocked for every container',
  observe: 'observed: counted, and not blocked',
} as const;
const ONE_WAY = {
  outbound: ', as a destination',
  inbound: ', as the source of what comes in',
  both: '',
} as const;

/** Both ways, or the one way in which what counts does. */
function way({ verdict, hits }: ThreatBody): string {
  const counting = hits.filter(({ action, spared }) => action === verdict && spared === null);
  const [first, ...others] = new Set(counting.map(({ direction }) => direction));
  return first === undefined || others.length > 0 ? '' : ONE_WAY[first];
}

function print(out: Output, threat: ThreatBody): void {
  const { target, verdict, hits } = threat;
  const listed = hits.length > 0 ? 'listed, and spared' : 'in no feed';
  out.line(`${target}: ${verdict === 'none' ? listed : `${VERDICTS[verdict]}${way(threat)}`}`);
  for (const hit of hits) {
    out.line(
      `  ${hit.feed} (${hit.action}, ${hit.direction}) lists ${hit.listed} in ${hit.positions} ${hit.line}, since ${out.time(hit.since)}`,
    );
    if (hit.spared !== null) out.line(`    spared: ${hit.spared}`);
  }
}
