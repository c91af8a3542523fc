import { expect, it } from 'vitest';
import { IgnoredLabels } from '../../../src/changes/service-records.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const IMAGE_LABELS = (project: string) => ({
  'com.docker.compose.project': project,
  'com.docker.compose.service': 'db',
});
const view = (...containers: Partial<ContainerFacts>[]): DockerView =>
  ({ containers: new Map(containers.map((c, i) => [String(i), c])) }) as unknown as DockerView;
const posing = (name: string, project: string): Partial<ContainerFacts> => ({
  name,
  image: 'evil:1',
  imageId: '',
  labels: IMAGE_LABELS(project),
  imageLabels: IMAGE_LABELS(project),
});

function recorder() {
  const records: { target: string; after: unknown }[] = [];
  const ignored = new IgnoredLabels(
    {
      record: async (r) => {
        records.push(r);
      },
    },
    quiet,
  );
  return { records, ignored };
}

it('records what is ignored, once', () => {
  const { records, ignored } = recorder();
  const { imageLabels: _, ...unknown } = posing('unknown', 'x');
  ignored.check(view({ ...posing('own', 'bank'), imageLabels: {} }, unknown));
  expect(records).toEqual([]);
  for (let i = 0; i < 2; i++) ignored.check(view(posing('bad', 'shop'), posing('worse', 'shop')));
  expect(records).toMatchObject([
    { target: 'bad', after: { image: 'evil:1', labels: IMAGE_LABELS('shop') } },
  ]);
});

it('images cannot flood the audit', () => {
  const { records, ignored } = recorder();
  ignored.check(view(...Array.from({ length: 1000 }, (_, i) => posing(`c${i}`, `p${i}`))));
  expect(records).toHaveLength(100);
});
