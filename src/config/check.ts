/** `drawbridge check FILE…`: list files, folders of them, and configurations, without a running service. */
import { readFile, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Problem } from '../model/problem.js';
import { isRecord } from '../model/shape.js';
import { readConfig } from './config.js';
import { readFolder } from './folder.js';
import { EMPTY_FOLDER, type FileRead, nextFolder } from './list-files.js';
import { ConfigSchema } from './schema.js';
import { parseYaml } from './yaml.js';

const LIST_KEYS: readonly string[] = ['allow', 'match', 'mode', 'description'];
const CONFIG_KEYS: readonly string[] = Object.keys(ConfigSchema.properties);

/** A configuration by its keys; where they do not tell, by its name. */
function isConfig(file: string, text: string): boolean {
  const { value } = parseYaml(text, file);
  const keys = isRecord(value) ? Object.keys(value) : [];
  if (keys.some((key) => LIST_KEYS.includes(key))) return false;
  return keys.some((key) => CONFIG_KEYS.includes(key)) || /^config\b/.test(basename(file));
}

async function readPath(path: string): Promise<{ text: string } | { folder: true } | { problem: Problem }> {
  try {
    if ((await stat(path)).isDirectory()) return { folder: true };
    return { text: await readFile(path, 'utf8') };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    return {
      problem: {
        detail: `cannot read it: ${code}`,
        remedy: 'name a file or a folder that is there',
        file: path,
      },
    };
  }
}

function checkConfig(file: string, text: string): readonly Problem[] {
  const parsed = readConfig({ file: { name: file, text } });
  return parsed.ok ? [] : parsed.problems;
}

/** Every problem of all these files and folders. Lists given together are judged together (names, cycles). */
export async function checkFiles(paths: readonly string[]): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const lists = new Map<string, FileRead>();
  for (const path of paths) {
    const read = await readPath(path);
    if ('problem' in read) problems.push(read.problem);
    else if ('folder' in read) problems.push(...(await readFolder(path)).problems);
    else if (isConfig(path, read.text)) problems.push(...checkConfig(path, read.text));
    else lists.set(path, read);
  }
  return [...problems, ...nextFolder(lists, EMPTY_FOLDER).problems];
}
