import type { Command } from 'commander';
import type { Explain } from '../api/schemas.js';
import type { Registry } from './command.js';
import { withContainer } from './containers.js';
import type { Output } from './output.js';

interface Options {
  readonly exitCode?: boolean;
  readonly trace?: boolean;
}

export function explainCommand(program: Command, registry: Registry): void {
  registry.add<[string, string], Options>(program, {
    usage: 'explain <container> <destination>',
    summary: 'whether a connection is allowed, what decides it, and the remedy',
    options: [
      ['--exit-code', 'exit 1 if it is denied'],
      ['--trace', 'print the rules that the packet passes'],
    ],
    examples: [
      'explain web api.github.com:443',
      'explain web 192.0.2.7:25 --exit-code',
      "explain web '[2001:db8::1]:443' --trace",
    ],
    run: async (session, [container, to], options) => {
      const client = await session.client();
      const answer = await withContainer(client, container, (name) => client.explain(name, to));
      session.out.show(answer, () => print(session.out, answer, options.trace ?? false));
      return options.exitCode && answer.verdict !== 'allow' ? 1 : 0;
    },
  });
}

function print(out: Output, e: Explain, withTrace: boolean): void {
  out.line(`${e.verdict}: ${e.container} to ${e.to}`);
  out.line(`  because ${e.reason}`);
  const facts = [
    ['entry', e.entry],
    ['list', e.list],
    ['feed', e.feed],
    ['warning', e.warning],
    ['remedy', e.remedy],
    ['for good', e.lasting],
    ['but', e.coverage],
  ] as const;
  for (const [name, value] of facts) if (value !== null) out.line(`  ${name}: ${value}`);
  if (withTrace) for (const rule of e.trace) out.line(`  | ${rule}`);
}
