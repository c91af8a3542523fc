import type { Logger } from '../lib/log.js';
import type { DockerView } from '../policy/container.js';
import { tame } from '../policy/labels.js';
import { ignoredLabels } from '../policy/own-labels.js';
import type { Audit } from './audit.js';

/** Labels of images are untrusted: they must not displace the records of changes. */
const MOST = 100;

/** Writes an audit record for compose and stack labels of images that have no effect, once for each set of values. */
export class IgnoredLabels {
  readonly #audit: Pick<Audit, 'record'>;
  readonly #log: Logger;
  readonly #recorded = new Set<string>();

  constructor(audit: Pick<Audit, 'record'>, log: Logger) {
    this.#audit = audit;
    this.#log = log;
  }

  check(view: DockerView): void {
    for (const c of view.containers.values()) {
      if (this.#recorded.size >= MOST) return;
      const keys = c.imageLabels ? ignoredLabels(c) : [];
      if (keys.length === 0) continue;
      const labels = Object.fromEntries(keys.map((key) => [key, tame(c.labels[key] ?? '')]));
      const id = JSON.stringify(labels);
      if (this.#recorded.has(id)) continue;
      this.#recorded.add(id);
      this.#record(c.name, c.image, labels);
    }
  }

  #record(target: string, image: string, labels: Readonly<Record<string, string>>): void {
    const after = { image: tame(image), labels };
    this.#log.warn({ container: target, ...after }, 'labels that come with the image are ignored');
    this.#audit
      .record({ who: 'drawbridge', action: 'labels.ignore', target, before: null, after, outcome: 'done' })
      .catch((err: unknown) => {
        this.#log.error({ err, container: target }, 'cannot record in the audit which labels are ignored');
      });
  }
}
