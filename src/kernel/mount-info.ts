/** One line of /proc/PID/mountinfo (proc_pid_mountinfo(5)). */
export interface Mount {
  /** major:minor of the file system. */
  readonly device: string;
  /** Folder or file of the file system that is mounted. */
  readonly root: string;
  readonly point: string;
  readonly isReadOnly: boolean;
  /** Such as "ext4", "tmpfs", "nfs4", "fuse.sshfs". */
  readonly type: string;
}
/** A file or folder by its file system and its path there: the same through every bind mount and symbolic link. */
export interface Location {
  readonly device: string;
  readonly path: string;
}

/** Lines that do not parse are left out. */
export function parseMountInfo(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const [fields = '', kind = ''] = line.split(' - ');
    const [, , device, root, point, options] = fields.split(' ');
    const [type, , superOptions = ''] = kind.split(' ');
    if (!device || !root || !point || !options || !type) return [];
    const isReadOnly = [...options.split(','), ...superOptions.split(',')].includes('ro');
    return [{ device, root: unescaped(root), point: unescaped(point), isReadOnly, type }];
  });
}

/** Spaces, tabs, newlines and backslashes are written in octal. */
const unescaped = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** The path is the folder itself or below it. */
export const isWithin = (folder: string, path: string): boolean =>
  folder === '/' || path === folder || path.startsWith(`${folder}/`);

export const holds = (folder: Location, place: Location): boolean =>
  folder.device === place.device && isWithin(folder.path, place.path);

export const joined = (folder: string, rest: string): string =>
  rest === '' || rest === '/' ? folder : `${folder === '/' ? '' : folder}/${rest.replace(/^\/+/, '')}`;

/** The mounts of one mount namespace. */
export class MountTable {
  readonly #byPoint: ReadonlyMap<string, Mount>;
  readonly #byDevice = new Map<string, Mount[]>();

  constructor(mounts: readonly Mount[]) {
    for (const m of mounts) {
      const others = this.#byDevice.get(m.device);
      if (others) others.push(m);
      else this.#byDevice.set(m.device, [m]);
    }
    // of mounts that are stacked at one point, the last one is visible
    this.#byPoint = new Map(mounts.map((m) => [m.point, m]));
  }

  /**
   * The mount that a path is on. Undefined when the table is empty.
   * @param path absolute, without symbolic links.
   */
  mountOf(path: string): Mount | undefined {
    for (let at = path; ; at = at.slice(0, at.lastIndexOf('/')) || '/') {
      const found = this.#byPoint.get(at);
      if (found || at === '/') return found;
    }
  }

  /** @param path absolute, without symbolic links. */
  locate(path: string): Location | undefined {
    const m = this.mountOf(path);
    return m && { device: m.device, path: joined(m.root, path.slice(m.point === '/' ? 0 : m.point.length)) };
  }

  /** A path that leads to the location. Undefined when its file system, or this part of it, is not mounted here. */
  pathOf(at: Location): string | undefined {
    const fitting = (this.#byDevice.get(at.device) ?? [])
      .filter((m) => isWithin(m.root, at.path))
      .sort((a, b) => b.root.length - a.root.length);
    for (const m of fitting) {
      const path = joined(m.point, m.root === '/' ? at.path : at.path.slice(m.root.length));
      if (this.mountOf(path) === m) return path;
    }
    return undefined;
  }
}
