import { StoreError } from './errors.js';

const MAX_KEY = 1024;
const MAX_VALUE = 16 * 1024 * 1024;

/** Keys of the store itself (its identity, the position of a replica) begin with NUL: readers do not see them. */
export const isReserved = (key: string): boolean => key.startsWith('\u0000');

/** The JSON of a value that may stand under this key. Throws StoreError `value`. */
export function jsonOf(key: string, value: unknown): string {
  const json: string | undefined = JSON.stringify(value);
  if (key === '' || key.length > MAX_KEY)
    throw new StoreError('value', `store key of ${key.length} characters: 1 to ${MAX_KEY}`);
  if (isReserved(key))
    throw new StoreError('value', 'store keys that begin with a NUL character are reserved');
  if (json === undefined) throw new StoreError('value', `store value of ${key} has no JSON form`);
  if (json.length > MAX_VALUE)
    throw new StoreError('value', `store value of ${key} is larger than ${MAX_VALUE} characters`);
  return json;
}
