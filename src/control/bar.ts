import { sharedSet } from '../desired/naming.js';
import type { FlowFacts } from './cut.js';
import type { KernelPort } from './kernel-port.js';

/** For so many seconds the other side's packets cannot make these flows anew: TCP and UDP, those with ports. */
export async function barFlows(
  kernel: Pick<KernelPort, 'addCut'>,
  prefix: string,
  flows: readonly FlowFacts[],
  seconds: number,
): Promise<void> {
  for (const family of [4, 6] as const) {
    const members = flows
      .filter((f) => f.family === family && (f.proto === 6 || f.proto === 17) && f.orig.sport !== undefined)
      .map((f) => `${f.orig.src},${f.proto === 6 ? 'tcp' : 'udp'}:${f.orig.sport},${f.reply.src}`);
    if (members.length > 0) await kernel.addCut(sharedSet(prefix, 'cut', family), members, seconds);
  }
}
