import type { Command } from 'commander';
import { ApiClient } from '../api/client.js';
import { localSocketOf } from '../config/api-listener.js';
import type { Config } from '../config/config.js';
import { lenientConfig } from '../config/lenient.js';
import { loadConfig } from '../config/load.js';
import { CommandFailure } from './failure.js';
import type { Host } from './host.js';
import { Output } from './output.js';

/** What every command has: its options, the configuration, the service. */
export class Session {
  readonly host: Host;
  readonly out: Output;
  readonly #file: string | undefined;

  constructor(host: Host, options: { readonly json?: boolean; readonly config?: string }) {
    this.host = host;
    this.out = new Output(host, options.json ?? false);
    this.#file = options.config;
  }

  /** `flags` by key path, as in { "dns.grace": "1h" }. Throws CommandFailure with every problem. */
  async config(flags: Readonly<Record<string, string>> = {}): Promise<Config> {
    const loaded = await loadConfig({ file: this.#file, env: this.host.env, flags });
    if (loaded.ok) return loaded.value.config;
    throw new CommandFailure(loaded.problems);
  }

  /** What can be read of a configuration that is refused. */
  lenientConfig(flags: Readonly<Record<string, string>> = {}): Promise<Config> {
    return lenientConfig({ file: this.#file, env: this.host.env, flags });
  }

  async client(): Promise<ApiClient> {
    return new ApiClient({ socket: localSocketOf(await this.config()), user: this.host.user });
  }
}

interface Definition<Args extends readonly unknown[], Options> {
  /** As commander writes it: "allow <container> <entry...>". */
  readonly usage: string;
  readonly summary: string;
  readonly examples: readonly string[];
  readonly options?: readonly (readonly [flags: string, description: string])[];
  /** Resolves with the exit code; undefined: 0. */
  run(session: Session, args: Args, options: Options): Promise<number | undefined>;
}

/** Registers commands at a parent; the exit code of the one that ran is told through `onExit`. */
export class Registry {
  readonly #host: Host;
  readonly #onExit: (code: number) => void;

  constructor(host: Host, onExit: (code: number) => void) {
    this.#host = host;
    this.#onExit = onExit;
  }

  add<Args extends readonly unknown[], Options = Record<string, never>>(
    parent: Command,
    definition: Definition<Args, Options>,
  ): Command {
    const command = parent.command(definition.usage).description(definition.summary);
    for (const [flags, description] of definition.options ?? []) command.option(flags, description);
    command.option('--json', 'print JSON').option('--config <file>', 'the configuration file');
    command.addHelpText(
      'after',
      `\nExamples:\n${definition.examples.map((e) => `  $ drawbridge ${e}`).join('\n')}`,
    );
    return command.action(async (...given: unknown[]) => {
      // A parent (`lists`) takes the options that both know, wherever they stand.
      const options = command.optsWithGlobals<Options & { json?: boolean; config?: string }>();
      const args = given.slice(0, -2) as unknown as Args;
      const session = new Session(this.#host, options);
      this.#onExit((await definition.run(session, args, options)) ?? 0);
    });
  }
}
