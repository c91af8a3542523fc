import { hostname } from 'node:os';
import type { Config } from './config.js';

/** This host's name in a fleet. */
export const nodeName = ({ node }: Pick<Config, 'node'>): string => node || hostname();
