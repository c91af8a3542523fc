import { policySuite } from './policy-suite.js';

policySuite('direct');
