/** A small file system in place of a folder, to be filled and emptied. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const CHUNK_BYTES = 4_096;

/** A tmpfs that holds what the folder held. Nothing may have the folder open when it is laid or removed. */
export class SmallDisk implements Disposable {
  readonly #folder: string;
  readonly #disk: string;
  readonly #ballast: string;

  constructor(folder: string, bytes = 4 * 1024 * 1024) {
    this.#folder = folder;
    this.#disk = `${folder}.disk`;
    this.#ballast = join(this.#disk, 'ballast');
    mkdirSync(this.#disk);
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'drawbridge-lab', this.#disk]);
    cpSync(folder, this.#disk, { recursive: true, preserveTimestamps: true });
    execFileSync('mount', ['--bind', this.#disk, folder]);
  }

  /** Leaves no byte. */
  fill(): void {
    for (let size = CHUNK_BYTES; ; ) {
      try {
        writeFileSync(this.#ballast, Buffer.alloc(size), { flag: 'a' });
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code !== 'ENOSPC') throw e;
        if (size === 1) return;
        size = 1;
      }
    }
  }

  empty(): void {
    rmSync(this.#ballast, { force: true });
  }

  [Symbol.dispose](): void {
    execFileSync('umount', ['-l', this.#folder]);
    execFileSync('umount', ['-l', this.#disk]);
    rmSync(this.#disk, { recursive: true });
  }
}
