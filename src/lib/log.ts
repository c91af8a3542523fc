import { type DestinationStream, pino, stdSerializers } from 'pino';
import { limitedLog } from './log-limits.js';
import { standardErrorOutput } from './log-output.js';
import type { Logger } from './logger.js';

export interface LogConfig {
  readonly level: string;
  readonly format: 'json' | 'text';
}

/** A value in a line: container labels, answers and file names may be of any length. */
const MAX_TEXT = 2_000;
const MAX_ITEMS = 100;
const MAX_DEPTH = 5;

/**
 * The service's log, to stderr: one JSON object a line, or text ("TIME LEVEL message key=value …").
 * What stderr does not take is dropped and counted (output.ts), and no message floods (limited.ts).
 */
export function createLog(config: LogConfig, out?: DestinationStream): Logger {
  const output = out ? undefined : standardErrorOutput();
  const log = pinoLog(config, out ?? standardErrorOutput());
  if (output)
    output.onRecovered = (lines, cause) =>
      log.warn({ lines, cause }, 'lines of this log were lost: standard error did not take them');
  return limitedLog(log);
}

function pinoLog(config: LogConfig, out: DestinationStream): Logger {
  return pino(
    {
      level: config.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => bounded(fields, 0) as Record<string, unknown>,
      },
      serializers: { err: (error: unknown) => bounded(errorFields(error), 0) },
    },
    config.format === 'text' ? textStream(out) : jsonStream(out),
  );
}

const errorFields = (error: unknown): unknown => (error instanceof Error ? stdSerializers.err(error) : error);

/** The value with its texts and lists cut to what a line may hold. Errors are left to their serializer. */
function bounded(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value);
  if (typeof value !== 'object' || value === null || value instanceof Error) return value;
  if (depth >= MAX_DEPTH) return '…';
  if (Array.isArray(value)) {
    const items = value.slice(0, MAX_ITEMS).map((item) => bounded(item, depth + 1));
    return value.length > MAX_ITEMS ? [...items, `… and ${value.length - MAX_ITEMS} more`] : items;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype && !('stack' in value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, bounded(field, depth + 1)]));
}

const cut = (text: string): string =>
  text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}… (${text.length} characters)` : text;

/** Control characters, and those that reorder a line: a terminal that shows the log obeys them. */
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
/** The same character to a reader of JSON. */
const escaped = (line: string): string =>
  line.replace(CONTROL, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);

function jsonStream(out: DestinationStream): DestinationStream {
  return { write: (line: string) => out.write(`${escaped(line.trimEnd())}\n`) };
}

function textStream(out: DestinationStream): DestinationStream {
  return { write: (line: string) => out.write(`${escaped(textLine(line))}\n`) };
}

function textLine(json: string): string {
  const { time, level, msg, ...rest }: Record<string, unknown> = JSON.parse(json);
  const fields = Object.entries(rest).map(([key, value]) => `${key}=${fieldText(value)}`);
  return [time, String(level).toUpperCase().padEnd(5), msg, ...fields]
    .filter((part) => part !== undefined)
    .join(' ');
}

/** An error as its message: the stack stays in the JSON format. */
function fieldText(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'stack' in value && 'message' in value)
    return JSON.stringify(value.message);
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
}
