import type { ContainerFacts, ContainerPractices } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import { allFindings, type CoverageParts, coverageInput } from './coverage.js';
import { hostFindings } from './host-findings.js';

/** What was found about each container and, when all are asked for, about the host. */
export function scanView(
  parts: CoverageParts,
  containers: readonly ContainerFacts[],
  withHost: boolean,
): ScanView[] {
  const { host, engine: daemon } = parts.hostWatch;
  const { failure } = parts.shape;
  const hostFound = hostFindings({ host, engine: daemon, failure }).map(
    (f): ScanFinding => ({ ...f, kind: 'host' }),
  );
  const codes = new Set(hostFound.map((f) => f.code));
  const views = containers.map((c) => containerScan(parts, c, codes));
  return withHost ? [{ container: null, image: null, findings: hostFound }, ...views] : views;
}

/** Problems of the whole host are reported once, not with every container. */
function containerScan(parts: CoverageParts, c: ContainerFacts, ofHost: ReadonlySet<string>): ScanView {
  const policy = parts.policies.policyOf(parts.docker.view().containers.get(c.sharesWith ?? '') ?? c);
  const coverage = allFindings(coverageInput(parts, c, policy))
    .filter((f) => !ofHost.has(f.code))
    .map((f): ScanFinding => ({ ...f, kind: 'coverage' }));
  const practices = practicesOf(c).map((p): ScanFinding => ({ ...p, state: 'enforced', kind: 'practice' }));
  return { container: c.name, image: c.image, findings: [...coverage, ...practices] };
}

interface ScanFinding extends Finding {
  readonly kind: 'coverage' | 'practice' | 'host';
}

/** What `scan` found about one container; container null: about the host. */
export interface ScanView {
  readonly container: string | null;
  readonly image: string | null;
  readonly findings: readonly ScanFinding[];
}

/** A setting that makes a break-in, or what follows it, easier. It does not change what is enforced. */
interface Practice {
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

/** Practices of a container that matter to egress. Empty before the container has been inspected. */
export function practicesOf(c: ContainerFacts): Practice[] {
  const p = c.practices;
  return [...image(c.image), ...(p ? [...user(p), ...secrets(p), ...limits(p), ...ports(p)] : [])];
}

function image(name: string): Practice[] {
  if (/@sha256:[0-9a-f]{64}$/.test(name) || /^(sha256:)?[0-9a-f]{12,64}$/.test(name)) return [];
  return [
    {
      code: 'image-not-pinned',
      detail: `the image ${name} is not pinned by a digest: the next pull may run another program under the same policy`,
      remedy: `write ${name}@sha256:… (docker image inspect -f '{{index .RepoDigests 0}}' ${name})`,
    },
  ];
}

function user({ user: name }: ContainerPractices): Practice[] {
  if (!ROOT.test(name)) return [];
  return [
    {
      code: 'root-user',
      detail: 'the container runs as root: a process that escapes from it is root on the host',
      remedy: 'set a user (user: "1000:1000"), or USER in its Dockerfile',
    },
  ];
}

/** Evaluate names only, never values. A variable `NAME_FILE` contains a path, which is the recommended way. */
function secrets({ envNames }: ContainerPractices): Practice[] {
  const found = envNames.filter((name) => isSecret(name));
  if (found.length === 0) return [];
  const more = found.length > SHOWN ? ` and ${found.length - SHOWN} more` : '';
  return [
    {
      code: 'secret-in-environment',
      detail: `environment variables look like secrets (${found.slice(0, SHOWN).join(', ')}${more}): every process of the container, and every user who may inspect it, can read them`,
      remedy: 'pass them as files (secrets:), by the NAME_FILE variable if the image supports it',
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
      detail: `the container has no limit of ${missing.join(' and ')}: it can use up the resources of the host, and with them those of other containers and of Drawbridge`,
      remedy: 'set mem_limit and pids_limit (--memory, --pids-limit)',
    },
  ];
}

function ports({ openPorts }: ContainerPractices): Practice[] {
  if (openPorts.length === 0) return [];
  return [
    {
      code: 'published-everywhere',
      detail: `the container publishes ${openPorts.join(', ')} on every address of the host: clients that connect there get replies, whatever its policy`,
      remedy: 'publish on one address, as in 127.0.0.1:8080:80',
    },
  ];
}
