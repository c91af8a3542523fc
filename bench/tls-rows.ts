/** The rows of bench/tls.ts: what the check of names costs, next to bare Docker and to proxies. */
import { figure, median, ratios } from './harness.js';
import { type Row, shownNumber } from './results.js';

export type Values = Readonly<Record<string, number>>;

/** By side, measurement and part: a value for each round. */
export class Series {
  readonly #all = new Map<string, number[]>();
  add(side: string, measurement: string, found: Values): void {
    for (const [part, value] of Object.entries(found)) this.#of(side, measurement, part).push(value);
  }
  #of(side: string, measurement: string, part: string): number[] {
    const key = `${side} ${measurement} ${part}`;
    const known = this.#all.get(key) ?? [];
    this.#all.set(key, known);
    return known;
  }
  of(side: string, measurement: string, part: string): readonly number[] {
    return this.#of(side, measurement, part);
  }
}

/** What is compared. */
interface Side {
  readonly id: string;
  readonly label: string;
}
export const LABELS = {
  bare: 'bare Docker',
  off: 'Drawbridge without the check (tls=off)',
  check: 'Drawbridge',
} as const;
type Shown = Pick<Row, 'id' | 'label' | 'unit'>;
type Rows = (sides: readonly Side[], series: Series) => Row[];

/** What the check adds to bare Docker, next to what another side adds; the others are in the note. */
const added =
  (measurement: string, part: string, about: Shown): Rows =>
  (sides, series) => {
    const bare = series.of('bare', measurement, part);
    const more = (id: string): readonly number[] =>
      series.of(id, measurement, part).map((v, i) => v - (bare[i] ?? 0));
    const others = sides.filter((s) => s.id !== 'bare' && s.id !== 'check' && more(s.id).length > 0);
    const [beside] = others.filter((s) => s.id === 'squid');
    const rest = others
      .filter((s) => s !== beside)
      .map((s) => `${s.label} ${shownNumber(median(more(s.id)))}`);
    const row: Row = {
      ...about,
      ours: figure(more('check')),
      note: `${rest.join(', ')}; bare Docker takes ${shownNumber(median(bare))}`,
    };
    if (!beside) return [row];
    const theirs = more(beside.id);
    return [
      { ...row, beside: { ...figure(theirs), label: beside.label }, ratio: ratios(more('check'), theirs) },
    ];
  };

/** The check, next to one side; the others are in the note. */
const compared =
  (measurement: string, part: string, next: string, about: Shown): Rows =>
  (sides, series) => {
    const of = (id: string): readonly number[] => series.of(id, measurement, part);
    const [beside] = sides.filter((s) => s.id === next);
    if (!beside) return [];
    const rest = sides
      .filter((s) => s.id !== next && s.id !== 'check' && of(s.id).length > 0)
      .map((s) => `${s.label} ${shownNumber(median(of(s.id)))}`);
    return [
      {
        ...about,
        ours: figure(of('check')),
        beside: { ...figure(of(next)), label: beside.label },
        ratio: ratios(of('check'), of(next)),
        note: rest.join(', '),
      },
    ];
  };

const [CONNECTIONS, EACH] = ['new connections, 4 at a time', '/s'];
/** The rows of each measurement. */
const ROWS: Readonly<Record<string, readonly Rows[]>> = {
  latency: [
    added('latency', 'p50', { id: 'tls-latency', label: 'added to a new connection, median', unit: 'µs' }),
    added('latency', 'p99', { id: 'tls-latency-p99', label: 'added to a new connection, 99 %', unit: 'µs' }),
  ],
  rate: [
    compared('rate', 'rate', 'squid', { id: 'tls-connections', label: CONNECTIONS, unit: EACH }),
    compared('rate', 'rate', 'bare', { id: 'tls-connections-bare', label: CONNECTIONS, unit: EACH }),
  ],
  handshake: [
    added('handshake', 'p50', {
      id: 'tls-handshake',
      label: 'added to a whole handshake of Node, median',
      unit: 'µs',
    }),
    compared('handshake', 'rate', 'bare', {
      id: 'tls-handshakes',
      label: 'whole handshakes of Node, 4 at a time',
      unit: EACH,
    }),
  ],
  bulk: [
    compared('bulk', 'bulk', 'bare', {
      id: 'tls-bulk',
      label: 'bulk TCP after the verdict, one stream',
      unit: 'Gbit/s a core',
    }),
  ],
  large: [
    added('large', 'p50', { id: 'tls-large', label: 'added by a hello of two segments, median', unit: 'µs' }),
  ],
  quic: [
    added('quic', 'p50', { id: 'tls-quic', label: 'added to a first datagram of QUIC, median', unit: 'µs' }),
    compared('quic', 'rate', 'bare', {
      id: 'tls-quic-initials',
      label: 'first datagrams of QUIC, 4 at a time',
      unit: EACH,
    }),
  ],
  http: [
    compared('http', 'rate', 'off', {
      id: 'tls-http',
      label: 'requests on one connection to port 80, one after the other',
      unit: EACH,
    }),
  ],
  upload: [
    compared('upload', 'rate', 'off', {
      id: 'tls-upload',
      label: 'upload to port 80, one stream, by the clock',
      unit: 'Gbit/s',
    }),
  ],
};

export const rowsOf = (
  measurements: readonly string[],
  sides: readonly Side[],
  series: Series,
): readonly Row[] => measurements.flatMap((name) => (ROWS[name] ?? []).flatMap((of) => of(sides, series)));
