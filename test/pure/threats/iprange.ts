/** FireHOL's iprange as an independent judge of aggregation. */
import { execFileSync } from 'node:child_process';

export function hasIprange(): boolean {
  try {
    return execFileSync('iprange', ['-'], { input: '192.0.2.7\n' }).toString() === '192.0.2.7\n';
  } catch {
    return false;
  }
}

/** The fewest networks, as iprange writes them. */
export function oracle(text: string): string[] {
  const out = execFileSync('iprange', ['--optimize', '-'], { input: text, maxBuffer: 1 << 28 });
  return out.toString().trim().split('\n');
}

/** What iprange can read of the file: its own parser resolves names and guesses at "1.2.3". */
export const clean = (text: string): string =>
  text
    .split('\n')
    .filter((line) => /^\d{1,3}(\.\d{1,3}){3}(\/\d+)?\s*(;.*)?$/.test(line))
    .map((line) => line.replace(/\s*;.*/, ''))
    .join('\n');
