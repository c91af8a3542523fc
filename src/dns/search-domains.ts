/** Search domains of containers, read once each from the file that Docker wrote; empty until then. */
export class SearchDomains {
  readonly #read: (container: string) => Promise<{ readonly search: readonly string[] }>;
  readonly #known = new Map<string, readonly string[]>();

  constructor(read: (container: string) => Promise<{ readonly search: readonly string[] }>) {
    this.#read = read;
  }

  of(container: string): readonly string[] {
    return this.#known.get(container) ?? [];
  }

  refresh(containers: Iterable<string>): void {
    const now = new Set(containers);
    for (const id of this.#known.keys()) if (!now.has(id)) this.#known.delete(id);
    for (const id of now) if (!this.#known.has(id)) void this.#fetch(id);
  }

  async #fetch(id: string): Promise<void> {
    this.#known.set(id, []);
    // Unreadable: no suffix is known, so that more is counted as denied, and nothing is permitted by it.
    const search = await this.#read(id).then(
      (r) => r.search,
      () => undefined,
    );
    if (search === undefined || search.length === 0) this.#known.delete(id);
    else this.#known.set(id, search);
  }
}
