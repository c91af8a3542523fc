/** Which methods each path has: a wrong one is told apart from a wrong path (RFC 9110 15.5.6). */
export class Methods {
  readonly #routes: { readonly fits: RegExp; readonly method: string }[] = [];

  /** `url` as the router has it: parameters are ":name", the rest of a path "*". */
  note(url: string, methods: string | readonly string[]): void {
    const pattern = url
      .split('/')
      .map((part) => (part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : literal(part)))
      .join('/');
    const fits = new RegExp(`^${pattern}$`);
    for (const method of [methods].flat()) this.#routes.push({ fits, method });
  }

  /** In order; none: there is no such path. */
  of(path: string): readonly string[] {
    return [...new Set(this.#routes.filter((r) => r.fits.test(path)).map((r) => r.method))].sort();
  }
}

const literal = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
