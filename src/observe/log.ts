import { type DestinationStream, destination, pino } from 'pino';
import type { Logger } from '../ports.js';

export interface LogConfig {
  readonly level: string;
  readonly format: 'json' | 'text';
}

/**
 * The service's log, to stderr: one JSON object a line, or text ("TIME LEVEL message key=value …").
 * Written synchronously: the last words before an exit are not lost.
 */
export function createLog(
  config: LogConfig,
  out: DestinationStream = destination({ dest: 2, sync: true }),
): Logger {
  const stream = config.format === 'text' ? textStream(out) : out;
  return pino(
    {
      level: config.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stream,
  );
}

function textStream(out: DestinationStream): DestinationStream {
  return { write: (line: string) => out.write(`${textLine(line)}\n`) };
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
