import { stringify } from 'yaml';
import type { ListBody } from '../api/schemas.js';
import { parseYaml } from '../lib/yaml.js';
import { listFromObject } from '../policy/list-parse.js';
import { CommandFailure } from './failure.js';

/** A list as its file would say it. */
export function listYaml({ description, hosts, match, mode, allow }: ListBody): string {
  return stringify({ description, hosts, match, mode, allow }, { lineWidth: 0 });
}

/** The body of a list from YAML text. Throws CommandFailure with every problem, placed in `file`. */
export function bodyFromYaml(name: string, file: string, text: string): unknown {
  const yaml = parseYaml(text, file);
  if (yaml.value === undefined) throw new CommandFailure(yaml.problems);
  const body = yaml.value ?? {};
  const parsed = listFromObject(name, 'store', body);
  const problems = [...yaml.problems, ...(parsed.ok ? [] : yaml.place(parsed.problems))];
  if (problems.length > 0) throw new CommandFailure(problems);
  return body;
}
