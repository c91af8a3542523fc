import type { Command } from 'commander';
import type { Registry } from './command.js';

type Register = (program: Command, registry: Registry) => void;
interface Listed {
  readonly name: string;
  readonly group: string;
  /** Each command is loaded only when it runs, or for the whole help. */
  readonly load: () => Promise<Register>;
}

const DAILY = 'Daily:';
const POLICIES = 'Policies and feeds:';
const INSPECTION = 'Inspection:';
const SERVICE = 'Service:';

/** Every command, in the order of the help. */
export const COMMANDS: readonly Listed[] = [
  { name: 'status', group: DAILY, load: async () => (await import('./status.js')).statusCommand },
  { name: 'ps', group: DAILY, load: async () => (await import('./ps.js')).psCommand },
  { name: 'inspect', group: DAILY, load: async () => (await import('./inspect.js')).inspectCommand },
  { name: 'explain', group: DAILY, load: async () => (await import('./explain.js')).explainCommand },
  { name: 'allow', group: DAILY, load: async () => (await import('./allow.js')).allowCommand },
  { name: 'revoke', group: DAILY, load: async () => (await import('./revoke.js')).revokeCommand },
  { name: 'mode', group: DAILY, load: async () => (await import('./mode.js')).modeCommand },
  { name: 'pause', group: DAILY, load: async () => (await import('./pause.js')).pauseCommand },
  { name: 'lockdown', group: DAILY, load: async () => (await import('./lockdown.js')).lockdownCommand },
  { name: 'lists', group: POLICIES, load: async () => (await import('./lists.js')).listsCommand },
  { name: 'check', group: POLICIES, load: async () => (await import('./check.js')).checkCommand },
  { name: 'sync', group: POLICIES, load: async () => (await import('./sync.js')).syncCommand },
  { name: 'export', group: POLICIES, load: async () => (await import('./transfer.js')).exportCommand },
  { name: 'import', group: POLICIES, load: async () => (await import('./transfer.js')).importCommand },
  { name: 'feeds', group: POLICIES, load: async () => (await import('./feeds.js')).feedsCommand },
  { name: 'threats', group: POLICIES, load: async () => (await import('./threats.js')).threatsCommand },
  { name: 'scan', group: INSPECTION, load: async () => (await import('./scan.js')).scanCommand },
  { name: 'audit', group: INSPECTION, load: async () => (await import('./audit.js')).auditCommand },
  { name: 'plan', group: INSPECTION, load: async () => (await import('./plan.js')).planCommand },
  { name: 'nodes', group: INSPECTION, load: async () => (await import('./nodes.js')).nodesCommand },
  { name: 'doctor', group: INSPECTION, load: async () => (await import('./doctor.js')).doctorCommand },
  { name: 'run', group: SERVICE, load: async () => (await import('./run.js')).runCommand },
  { name: 'guard', group: SERVICE, load: async () => (await import('./guard.js')).guardCommand },
  { name: 'tokens', group: SERVICE, load: async () => (await import('./tokens.js')).tokensCommand },
  { name: 'store', group: SERVICE, load: async () => (await import('./store.js')).storeCommand },
  { name: 'teardown', group: SERVICE, load: async () => (await import('./teardown.js')).teardownCommand },
  { name: 'version', group: SERVICE, load: async () => (await import('./version.js')).versionCommand },
];
