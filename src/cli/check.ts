import type { Command } from 'commander';
import { checkFiles } from '../config/check.js';
import type { Registry } from './command.js';
import { CommandFailure, problemText } from './failure.js';
import { counted } from './text.js';

export function checkCommand(program: Command, registry: Registry): void {
  registry.add<[string[]], { readonly known?: string }>(program, {
    usage: 'check <file...>',
    summary: 'check list files, folders and configurations, without the service (for CI)',
    options: [['--known <names>', 'lists of the store that these files may name, with commas between']],
    examples: ['check allowlists/', 'check config.yaml allowlists/', 'check allowlists/npm.yaml'],
    run: async ({ out }, [files], { known = '' }) => {
      const names = known.split(',').filter((name) => name !== '');
      const { problems, warnings } = await checkFiles(files, names);
      const ok = problems.length === 0;
      if (!out.isJson) for (const warning of warnings) out.note(`warning: ${problemText(warning)}`);
      if (!ok && !out.isJson) throw new CommandFailure(problems);
      const more = warnings.length > 0 ? `, ${counted(warnings.length, 'warning')}` : '';
      out.show({ ok, problems, warnings }, () => out.line(`${files.join(', ')}: OK${more}`));
      return ok ? 0 : 1;
    },
  });
}
