/** A value that one part sets and others read or wait for. Undefined until it is set for the first time. */
export class Current<T> {
  #value: T | undefined;
  readonly #listeners = new Set<(value: T) => void>();

  get value(): T | undefined {
    return this.#value;
  }

  /** Replace the value and call the listeners, in the order in which they subscribed. What a listener throws is thrown here. */
  set(value: T): void {
    this.#value = value;
    for (const listener of this.#listeners) listener(value);
  }

  /** Call `listener` with each later value. Dispose the result to end the subscription. */
  subscribe(listener: (value: T) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }
}

/** An event of one kind that one part emits and others subscribe to. */
export class Signal<T = void> {
  readonly #listeners = new Set<(value: T) => void>();

  /** Call the listeners, in the order in which they subscribed. What a listener throws is thrown here. */
  emit(value: T): void {
    for (const listener of this.#listeners) listener(value);
  }

  /** Call `listener` with each later event. Dispose the result to end the subscription. */
  subscribe(listener: (value: T) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }
}

/** An event whose listeners work one after the other; the part that emits it waits for them. */
export class AsyncSignal<T> {
  readonly #listeners = new Set<(value: T) => Promise<void>>();

  async emit(value: T): Promise<void> {
    for (const listener of this.#listeners) await listener(value);
  }

  subscribe(listener: (value: T) => Promise<void>): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }
}

/** Put an entry behind all others, as a Map keeps the order of insertion; of more than `most` entries the first one is forgotten. */
export function putNewest<K, V>(map: Map<K, V>, key: K, value: V, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= most) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
