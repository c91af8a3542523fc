/** The thread in which large lists are read, so that neither a file nor a request holds up a DNS answer. */
import { serveThread } from '../lib/thread.js';
import { runListJob } from './list-jobs.js';

serveThread(runListJob);
