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
