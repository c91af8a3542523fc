/** A stream of numbers that a seed fixes (xoshiro128**, Blackman and Vigna 2018), so that every run can be had again. */
export class Random {
  readonly #s: Uint32Array;

  constructor(seed: number) {
    // SplitMix fills the state: close seeds give streams that share nothing.
    let z = seed >>> 0;
    this.#s = Uint32Array.from({ length: 4 }, () => {
      z = (z + 0x9e3779b9) >>> 0;
      const a = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      const b = Math.imul(a ^ (a >>> 15), 0x735a2d97);
      return (b ^ (b >>> 15)) >>> 0;
    });
  }

  /** 32 bits. */
  next(): number {
    const s = this.#s;
    const [a = 0, b = 0, c = 0, d = 0] = s;
    const five = Math.imul(b, 5);
    const result = Math.imul((five << 7) | (five >>> 25), 9) >>> 0;
    s[2] = c ^ a;
    s[3] = d ^ b;
    s[1] = b ^ (s[2] as number);
    s[0] = a ^ (s[3] as number);
    s[2] = (s[2] as number) ^ (b << 9);
    const last = s[3] as number;
    s[3] = (last << 11) | (last >>> 21);
    return result;
  }

  /** 0 to before `bound`. */
  below(bound: number): number {
    return Math.floor((this.next() / 2 ** 32) * bound);
  }

  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  pick<T>(items: readonly [T, ...T[]] | readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
}
