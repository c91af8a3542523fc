/** A URL as a message or the API may show it: credentials may be in front of its host, or in its query. */
export function shownUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}${url.search === '' ? '' : '?…'}`;
}
