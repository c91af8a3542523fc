/** A small file system in place of a folder of HOST, to be filled and emptied. */
import type { Lab } from './lab.js';

/** A tmpfs that holds what the folder held. No process may have the folder open when it is mounted or removed. */
export class SmallDisk implements AsyncDisposable {
  readonly #lab: Lab;
  readonly #folder: string;

  private constructor(lab: Lab, folder: string) {
    this.#lab = lab;
    this.#folder = folder;
  }

  /** Mounted in the lab's mount view, where its processes run. */
  static async over(lab: Lab, folder: string, bytes = 4 * 1024 * 1024): Promise<SmallDisk> {
    const copy = `${folder}.before`;
    await lab.inHost(['cp', '-a', folder, copy], { check: true });
    const options = `size=${bytes},mode=0700`;
    await lab.inHost(['mount', '-t', 'tmpfs', '-o', options, 'drawbridge-lab', folder], { check: true });
    await lab.inHost(['cp', '-a', `${copy}/.`, folder], { check: true });
    await lab.inHost(['rm', '-r', copy], { check: true });
    return new SmallDisk(lab, folder);
  }

  /** Leaves no free page; the last page of a file that is open may have room for a few bytes still. */
  async fill(): Promise<void> {
    const { stderr } = await this.#lab.inHost([
      'dd',
      'if=/dev/zero',
      `of=${this.#folder}/ballast`,
      'bs=4096',
    ]);
    if (!/No space left/.test(stderr)) throw new Error(`the disk could not be filled: ${stderr}`);
  }

  async empty(): Promise<void> {
    await this.#lab.inHost(['rm', '-f', `${this.#folder}/ballast`], { check: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab.inHost(['umount', '-l', this.#folder], { check: true });
  }
}
