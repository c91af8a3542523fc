import { execFileSync } from 'node:child_process';
import { type Exec, exec } from '../../src/kernel/exec.js';

/** A throw-away network namespace and an Exec that runs everything inside it. */
export interface Netns extends Disposable {
  readonly name: string;
  readonly path: string;
  readonly exec: Exec;
  run(file: string, ...args: string[]): string;
}
let count = 0;

export function makeNetns(): Netns {
  const name = `dbt-${process.pid}-${count++}`;
  execFileSync('ip', ['netns', 'add', name]);
  const path = `/run/netns/${name}`;
  const enter = [`--net=${path}`, '--'];
  return {
    name,
    path,
    exec: (file, args, options) => exec('nsenter', [...enter, file, ...args], options),
    run: (file, ...args) => execFileSync('nsenter', [...enter, file, ...args], { encoding: 'utf8' }),
    [Symbol.dispose]: () => void execFileSync('ip', ['netns', 'del', name]),
  };
}
