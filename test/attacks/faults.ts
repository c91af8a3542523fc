/** The kernel's tools as the service finds them in PATH, but for one call: there the service is killed. */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';

/** What changes the kernel; everything else goes straight through. */
const CHANGES: Readonly<Record<string, string>> = {
  'iptables-restore': '*',
  'ip6tables-restore': '*',
  ipset: 'restore*',
  nft: '-f*',
};
export type When = 'before' | 'after';

/**
 * Calls are counted under a lock; the armed one kills the service, before or after it does its work: the shell's parent, or the
 * parent of that where it is the process that starts tools (src/kernel/tool-runner.ts).
 */
const script = (tool: string, pattern: string, dir: string): string => `#!/bin/sh
PATH="\${PATH#${dir}:}"
case "$*" in
${pattern}) ;;
*) exec ${tool} "$@" ;;
esac
command_of() { tr '\\0' ' ' </proc/$1/cmdline; }
service=$PPID
case "$(command_of $PPID)" in *tool-runner*) read -r _ _ _ service _ </proc/$PPID/stat ;; esac
end() {
  case "$(command_of $service)" in *' run '*) kill -9 $service ;; esac
  exit 1
}
exec 9>${dir}/lock
flock 9
echo "${tool} $*" >>${dir}/calls
armed=$(cat ${dir}/armed 2>/dev/null)
if [ "$(wc -l <${dir}/calls) before" = "$armed" ]; then end; fi
if [ "$(wc -l <${dir}/calls) after" = "$armed" ]; then ${tool} "$@" 9>&-; end; fi
exec 9>&-
exec ${tool} "$@"
`;

export class Faults {
  readonly #dir: string;
  readonly #path: string;

  constructor(lab: Lab) {
    this.#dir = join(lab.dir, 'faults');
    this.#path = `${this.#dir}:${lab.view.env.PATH}`;
    mkdirSync(this.#dir);
    for (const [tool, pattern] of Object.entries(CHANGES)) {
      const file = join(this.#dir, tool);
      writeFileSync(file, script(tool, pattern, this.#dir));
      chmodSync(file, 0o755);
    }
  }
  /** For the service alone. */
  get env(): Readonly<Record<string, string>> {
    return { PATH: this.#path };
  }
  /** The nth call from now on is the last that the service makes. */
  arm(nth: number, when: When): void {
    rmSync(join(this.#dir, 'calls'), { force: true });
    writeFileSync(join(this.#dir, 'armed'), `${nth} ${when}`);
  }
  disarm(): void {
    rmSync(join(this.#dir, 'armed'), { force: true });
  }
  /** Since it was armed. */
  calls(): readonly string[] {
    const file = join(this.#dir, 'calls');
    return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
  }
}
