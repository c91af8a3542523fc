import type { Config } from '../config/config.js';
import type { Session } from './command.js';
import type { AloneRecord } from './host.js';

/** Records a change that is made without the service. It is made without a record as well, which is then said on stderr. */
export async function recordAlone(session: Session, config: Config, record: AloneRecord): Promise<void> {
  const why = await session.host.recordAlone(config, record);
  if (why !== undefined) session.out.note(`the audit has no record of ${record.action}: ${why}`);
}
