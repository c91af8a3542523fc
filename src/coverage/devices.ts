/** Driver names by major number, as /proc/devices lists them. */
export interface DeviceDrivers {
  readonly block: ReadonlyMap<number, string>;
  readonly char: ReadonlyMap<number, string>;
}

export function parseDevices(text: string): DeviceDrivers {
  const [chars = '', blocks = ''] = text.split(/^Block devices:$/m);
  const read = (part: string): ReadonlyMap<number, string> =>
    new Map([...part.matchAll(/^\s*(\d+) (\S+)$/gm)].map((m) => [Number(m[1]), m[2] ?? '']));
  return { block: read(blocks), char: read(chars) };
}

/** Device numbers of a node (makedev(3), as in the kernel's new_encode_dev). */
export const majorOf = (rdev: number): number => Math.floor(rdev / 256) % 4096;
export const minorOf = (rdev: number): number => (rdev % 256) + Math.floor(rdev / 1_048_576) * 256;
