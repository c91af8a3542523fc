import type { ContainerFacts, ContainerPractices } from '../model/container.js';

/** A habit that makes a break-in, or what follows it, easier. It changes nothing of what is enforced. */
export interface Practice {
  readonly code: string;
  readonly detail: string;
  readonly remedy: string;
}

const SECRET =
  /(^|_)(PASS(WORD|WD|PHRASE)?|PWD|SECRETS?|TOKENS?|API_?KEYS?|(PRIVATE|ACCESS|ENCRYPTION|SIGNING)_?KEYS?|CREDENTIALS?|DSN|CONNECTION_?STRING)(_|$)/;
/** URLs that carry user and password more often than not. */
const SECRET_URL = /^(DATABASE|DB|POSTGRES|MYSQL|MONGO|MONGODB|REDIS|AMQP|BROKER|SMTP)_(URL|URI)$/;
const ROOT = /^(root|0)?(:.*)?$/;
const SHOWN = 8;

/** Practices of a container that matter to egress. Empty before Docker has told them. */
export function practicesOf(c: ContainerFacts): Practice[] {
  const p = c.practices;
  return [...image(c.image), ...(p ? [...user(p), ...secrets(p), ...limits(p), ...ports(p)] : [])];
}

function image(name: string): Practice[] {
  if (/@sha256:[0-9a-f]{64}$/.test(name) || /^(sha256:)?[0-9a-f]{12,64}$/.test(name)) return [];
  return [
    {
      code: 'image-not-pinned',
      detail: `its image ${name} is not pinned by a digest: the next pull may bring another program under the same policy`,
      remedy: `write ${name}@sha256:… (docker image inspect -f '{{index .RepoDigests 0}}' ${name})`,
    },
  ];
}

function user({ user: name }: ContainerPractices): Practice[] {
  if (!ROOT.test(name)) return [];
  return [
    {
      code: 'root-user',
      detail: 'it runs as root: an escape from it is root of the host',
      remedy: 'set a user (user: "1000:1000"), or USER in its Dockerfile',
    },
  ];
}

/** Names only. `_FILE` names a file, which is how it should be. */
function secrets({ envNames }: ContainerPractices): Practice[] {
  const found = envNames.filter((name) => isSecret(name));
  if (found.length === 0) return [];
  const more = found.length > SHOWN ? ` and ${found.length - SHOWN} more` : '';
  return [
    {
      code: 'secret-in-environment',
      detail: `environment variables that look like secrets: ${found.slice(0, SHOWN).join(', ')}${more}: every process in it, and whoever may inspect it, reads them`,
      remedy: 'give them as files (secrets:), by the NAME_FILE variant where the image has one',
    },
  ];
}

function isSecret(name: string): boolean {
  const words = name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
  if (words === 'PWD' || words === 'OLDPWD' || words.endsWith('_FILE')) return false;
  return SECRET.test(words) || SECRET_URL.test(words);
}

function limits({ memoryLimit, pidsLimit }: ContainerPractices): Practice[] {
  const missing = [...(memoryLimit === 0 ? ['memory'] : []), ...(pidsLimit === 0 ? ['processes'] : [])];
  if (missing.length === 0) return [];
  return [
    {
      code: 'no-limits',
      detail: `it has no limit of ${missing.join(' and ')}: it can take the host, and Drawbridge's answers with it, from all others`,
      remedy: 'set mem_limit and pids_limit (--memory, --pids-limit)',
    },
  ];
}

function ports({ openPorts }: ContainerPractices): Practice[] {
  if (openPorts.length === 0) return [];
  return [
    {
      code: 'published-everywhere',
      detail: `it publishes ${openPorts.join(', ')} on every address of the host: who reaches it there gets answers out of it, whatever its policy`,
      remedy: 'publish on one address, as in 127.0.0.1:8080:80',
    },
  ];
}
