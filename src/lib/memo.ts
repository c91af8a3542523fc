let isKept = true;

/** Whether results may be reused. Tests compare the state of the kernel with what is computed without any reuse. */
export const reuses = (): boolean => isKept;

/** False: no result of `memo` is reused, and each pass is a whole one. For tests. */
export function setReuse(isOn: boolean): void {
  isKept = isOn;
}

/** Computes once for each object, which must never change, and neither may anything else that the result depends on. */
export function memo<Of extends object, Result extends object | string>(
  compute: (of: Of) => Result,
): (of: Of) => Result {
  const known = new WeakMap<Of, Result>();
  return (of) => {
    if (!isKept) return compute(of);
    const result = known.get(of) ?? compute(of);
    known.set(of, result);
    return result;
  };
}
