/**
 * Sections of what reports. An error in one of them does not stop what enforces: the service starts with what is valid of the section, and
 * shows the error.
 */
import { join } from 'node:path';
import { isRecord, unescapePointer } from '../lib/json.js';
import type { Problem } from '../lib/problem.js';
import type { Config } from './config.js';
import { UNIX } from './service-socket.js';

const SECTION = /^\/(api|flows|notify)(\/|$)/;
const VARIABLE = /DRAWBRIDGE_(API|FLOWS|NOTIFY)(_|$)/;

/** Of the configuration, or of a variable that sets a key of these sections. */
export const isOfReporting = ({ pointer, detail, about }: Problem): boolean =>
  pointer === undefined
    ? VARIABLE.test(about?.kind === 'setting' ? about.name : (detail.split(':')[0] ?? ''))
    : SECTION.test(pointer);

/** The value without the key at each pointer (a broken list goes whole, so that indexes stay true). */
export function without(value: unknown, steps: readonly string[]): unknown {
  const [step, ...rest] = steps;
  const key = unescapePointer(step ?? '');
  if (step === undefined || !isRecord(value) || !Object.hasOwn(value, key)) return value;
  const inner = value[key];
  const { [key]: _, ...others } = value;
  return rest.length > 0 && isRecord(inner) ? { ...others, [key]: without(inner, rest) } : others;
}

/** The value without what these problems are about: of receivers those with a problem only, so that the others still report. */
export function soundPart(value: unknown, problems: readonly Problem[]): unknown {
  const steps = problems.map(({ pointer = '' }) => pointer.split('/').slice(1));
  const receivers = new Set(steps.flatMap(([section, at]) => (section === 'notify' ? [Number(at)] : [])));
  const keys = steps.filter(([section, at]) => section !== 'notify' || at === undefined);
  const left = keys.reduce<unknown>(without, value);
  if (!isRecord(left) || !Array.isArray(left.notify)) return left;
  return { ...left, notify: left.notify.filter((_, at) => !receivers.has(at)) };
}

/**
 * The sections as they are used. With an error in `api` the service listens on a unix socket of this host only, which commands find by the
 * same rule; a listener on TCP that it has had before (`former`) stays.
 */
export function withFaults(config: Config, faults: readonly Problem[], former: Config | undefined): Config {
  const has = (section: string): boolean =>
    faults.some(({ pointer = '' }) => pointer === `/${section}` || pointer.startsWith(`/${section}/`));
  const kept = former ?? config;
  return {
    ...config,
    api: has('api') ? apiOf(config, faults, former) : config.api,
    flows: has('flows') ? kept.flows : config.flows,
    notify: has('notify') ? kept.notify : config.notify,
    faults,
  };
}

function apiOf(
  { api, state }: Config,
  faults: readonly Problem[],
  former: Config | undefined,
): Config['api'] {
  const isListenerSound = !faults.some(({ pointer }) => pointer === '/api' || pointer === '/api/listen');
  if (isListenerSound && api.listen.startsWith(UNIX)) return { ...api, tokens: [] };
  const isOnTcp = former?.state === state && !former.api.listen.startsWith(UNIX);
  return isOnTcp ? former.api : { listen: `${UNIX}${join(state, 'api.sock')}`, tokens: [] };
}
