import { shownHere } from '../attacks/report.js';
import { policySuite } from './policy-suite.js';

policySuite(
  'loopback',
  shownHere({
    id: 'dns-hidden-port',
    title: "Docker's own resolver at its hidden port, found by a scan",
    families: ['v4'],
    stoppedBy: "a rule inside the container's namespace closes that port to it",
  }),
);
