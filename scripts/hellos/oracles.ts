/** What other programs read in a recording. */
import { run } from '../../test/lab/process.js';

export interface ReadHello {
  readonly name: string | null;
  /** The config_id of an encrypted hello. */
  readonly ech: number | null;
  readonly earlyData: boolean;
}
export interface ReadFlow {
  readonly proto: 'tcp' | 'udp';
  /** Of the client. */
  readonly port: number;
  readonly hellos: readonly ReadHello[];
  /** The Host of each request. */
  readonly requests: readonly string[];
}

const CLIENT_HELLO = 1;
const EARLY_DATA = '42';
const FIELDS = [
  'tcp.srcport',
  'udp.srcport',
  'tls.handshake.type',
  'tls.handshake.extensions_server_name',
  'tls.handshake.extension.type',
  'tls.ech.config_id',
  'http.request.method',
  'http.host',
  'tls.ech.client_hello_type',
] as const;

/** The hellos and requests of each flow, in order, as tshark reads them. */
export async function tsharkReads(file: string): Promise<readonly ReadFlow[]> {
  const { stdout } = await run(
    [
      'tshark',
      '-r',
      file,
      '-d',
      'tcp.port==444,tls',
      '-d',
      'tcp.port==446,tls',
      ...[443, 445, 447, 448, 449].flatMap((p) => ['-d', `udp.port==${p},quic`]),
      '-Y',
      'tls.handshake.type == 1 || http.request',
      '-T',
      'fields',
      '-E',
      'separator=|',
      '-E',
      'occurrence=a',
      ...FIELDS.flatMap((f) => ['-e', f]),
    ],
    { check: true },
  );
  const flows = new Map<
    string,
    { proto: 'tcp' | 'udp'; port: number; hellos: ReadHello[]; requests: string[] }
  >();
  for (const line of stdout.split('\n').filter(Boolean)) {
    const [tcp = '', udp = '', types = '', names = '', extensions = '', ech = '', method = '', host = ''] =
      line.split('|');
    const proto = tcp === '' ? 'udp' : 'tcp';
    const port = Number(tcp || udp);
    const flow = flows.get(`${proto} ${port}`) ?? { proto, port, hellos: [], requests: [] };
    flows.set(`${proto} ${port}`, flow);
    if (types.split(',').map(Number).includes(CLIENT_HELLO))
      flow.hellos.push({
        name: names === '' ? null : names,
        ech: ech === '' ? null : Number(ech),
        earlyData: extensions.split(',').includes(EARLY_DATA),
      });
    if (method !== '') flow.requests.push(...host.split(','));
  }
  return [...flows.values()];
}

/** The names that nDPI shows, in any order. */
export async function ndpiNames(file: string): Promise<readonly string[]> {
  const { stdout } = await run(['ndpiReader', '-i', file, '-v', '2'], { check: true });
  return [
    ...new Set([...stdout.matchAll(/\[Hostname\/SNI: ([^\]]*)\]/g)].map(([, name]) => name ?? '')),
  ].sort();
}
