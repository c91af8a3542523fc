export const UNIX = 'unix:';

/** What is wrong with a TCP listener that other hosts reach; undefined: nothing. */
export function openListener(address: string): { detail: string; remedy: string } | undefined {
  const [, host = ''] = /^\[?(.*?)\]?:\d+$/.exec(address) ?? [];
  if (address.startsWith(UNIX) || /^(127\.|localhost$|::1$|::ffff:127\.)/.test(host)) return undefined;
  return {
    detail: `api.listen: ${address} is reached from other hosts, and tokens cross the network as they are`,
    remedy: 'listen on 127.0.0.1 behind a proxy that ends TLS, or reach it through a VPN or SSH tunnel only',
  };
}
