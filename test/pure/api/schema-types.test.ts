/** Views whose types belong to other modules fit the schemas of the API. The compiler checks it. */
import { expectTypeOf, it } from 'vitest';
import type { AskBody, AskDecidedBody } from '../../../src/api/ask-routes.js';
import type { NotifyTestBody, OutputBody } from '../../../src/api/event-routes.js';
import type { AuditBody, Explain, ListBody, PauseBody, ScanBody, Status } from '../../../src/api/schemas.js';
import type { NodeBody, PlanBody } from '../../../src/api/schemas-fleet.js';
import type {
  FeedBody,
  FeedSyncBody,
  Flow,
  PreviewBody,
  SuggestionBody,
  ThreatBody,
} from '../../../src/api/schemas-traffic.js';
import type { AskDecided, AskView } from '../../../src/ask/asks.js';
import type { AuditView } from '../../../src/changes/audit.js';
import type { NodeView } from '../../../src/changes/fleet.js';
import type { ListView } from '../../../src/changes/list-changes.js';
import type { PlannedChange } from '../../../src/changes/transfer-changes.js';
import type { UnwrittenChange } from '../../../src/changes/unwritten-changes.js';
import type { ExplainView } from '../../../src/coverage/explain-request.js';
import type { ScanView } from '../../../src/coverage/scan.js';
import type { FlowRecord } from '../../../src/flows/flow-record.js';
import type { OutputStatus } from '../../../src/notify/delivery.js';
import type { TestResult } from '../../../src/notify/notifier.js';
import type { Pause } from '../../../src/policy/policy.js';
import type { PreviewView } from '../../../src/suggest/preview.js';
import type { Suggestion } from '../../../src/suggest/suggest.js';
import type { FeedSync, FeedView, ThreatsStatus, ThreatView } from '../../../src/threats/feed-view.js';

it('every view fits its schema', () => {
  expectTypeOf<AskView>().toExtend<AskBody>();
  expectTypeOf<AskDecided>().toExtend<AskDecidedBody>();
  expectTypeOf<FeedView>().toExtend<FeedBody>();
  expectTypeOf<FeedSync>().toExtend<FeedSyncBody>();
  expectTypeOf<ThreatView>().toExtend<ThreatBody>();
  expectTypeOf<ThreatsStatus>().toExtend<Status['threats']>();
  expectTypeOf<FlowRecord>().toExtend<Flow>();
  expectTypeOf<OutputStatus>().toExtend<OutputBody>();
  expectTypeOf<TestResult>().toExtend<NotifyTestBody>();
  expectTypeOf<PreviewView>().toExtend<PreviewBody>();
  expectTypeOf<Suggestion>().toExtend<SuggestionBody>();
  expectTypeOf<ScanView>().toExtend<ScanBody>();
  expectTypeOf<ExplainView>().toExtend<Explain>();
  expectTypeOf<AuditView>().toExtend<AuditBody>();
  expectTypeOf<NodeView>().toExtend<NodeBody>();
  expectTypeOf<PlannedChange>().toExtend<PlanBody['changes'][number]>();
  expectTypeOf<UnwrittenChange>().toExtend<Status['store']['unwritten'][number]>();
  expectTypeOf<Omit<Pause, 'durable' | 'note'>>().toExtend<Omit<PauseBody, 'durable' | 'note'>>();
  expectTypeOf<ListView['usedBy']>().toExtend<ListBody['usedBy']>();
});
