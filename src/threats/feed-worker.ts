/** The thread in which feeds are read and merged, so that a million lines never hold up a DNS answer. */
import { serveThread } from '../lib/thread.js';
import { runRequest } from './feed-worker-jobs.js';

serveThread(runRequest);
