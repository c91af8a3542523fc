import { policySuite } from './policy-suite.js';

policySuite('loopback');
