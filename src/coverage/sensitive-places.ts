import type { Location } from '../kernel/mount-info.js';
import type { Finding } from '../policy/finding.js';

/** Places of this host that the configuration names. */
export interface OwnPlaces {
  readonly dockerSocket: string;
  /** Of Drawbridge's API; undefined: it listens elsewhere. */
  readonly apiSocket?: string;
  readonly state: string;
  readonly allowlists: string;
  /** Of Redis, where the store is reached by a unix socket. */
  readonly storeSocket?: string;
  /** Whether a path exists on this host; undefined: the files of the host cannot be read. */
  readonly exists?: (path: string) => boolean | undefined;
}
/** A path of the host, or a pattern (`*` is one whole component), that must not be in a container's hands. */
export interface Place {
  readonly path: string;
  /** connect: a mount of it is enough, read-only too. write: only a writable mount counts. */
  readonly by: 'connect' | 'write';
  /** Whatever lies below it counts as well. */
  readonly isDeep: boolean;
  readonly code: string;
  readonly state: Finding['state'];
  /** Of sockets and Drawbridge's files: what it is. */
  readonly what: string;
  readonly meaning: string;
}
/** Facts that Docker's daemon reports, and the paths of engine sockets. */
export interface EnginePlaces {
  readonly dataRoot: string;
  /** Sockets on which engines were found to listen. */
  readonly sockets: readonly string[];
}

const STARTS_ANYTHING = 'it can start containers without a policy, and take over the host';
const runtime = (path: string, what: string): Place => ({
  path,
  by: 'connect',
  isDeep: false,
  code: 'runtime-socket',
  what,
  state: 'unenforced',
  meaning: STARTS_ANYTHING,
});
const docker = (path: string): Place => ({ ...runtime(path, 'the Docker socket'), code: 'docker-socket' });
const dbus = (path: string): Place => ({
  ...runtime(path, 'the system D-Bus'),
  code: 'dbus',
  state: 'partial',
  meaning: 'it can make services of the host act for it, systemd included',
});
const SOCKETS: readonly Place[] = [
  docker('/run/docker.sock'),
  docker('/run/user/*/docker.sock'),
  runtime('/run/containerd/containerd.sock', "containerd's socket"),
  runtime('/run/docker/containerd/containerd.sock', "containerd's socket"),
  runtime('/run/k3s/containerd/containerd.sock', "containerd's socket"),
  { ...runtime('/run/containerd/s', "containerd's socket"), isDeep: true },
  runtime('/run/podman/podman.sock', "Podman's socket"),
  runtime('/run/user/*/podman/podman.sock', "Podman's socket"),
  runtime('/run/crio/crio.sock', "CRI-O's socket"),
  runtime('/run/cri-dockerd.sock', "cri-dockerd's socket"),
  runtime('/run/buildkit/buildkitd.sock', "BuildKit's socket"),
  runtime('/var/lib/lxd/unix.socket', "LXD's socket"),
  runtime('/var/snap/lxd/common/lxd/unix.socket', "LXD's socket"),
  runtime('/var/lib/incus/unix.socket', "Incus' socket"),
  runtime('/run/libvirt/libvirt-sock', "libvirt's socket"),
  runtime('/run/systemd/private', "systemd's private socket"),
  dbus('/run/dbus/system_bus_socket'),
];

const HOST_RUNS = 'it controls what the host runs from there';
const hostFile = (path: string, isDeep = true): Place => ({
  path,
  by: 'write',
  isDeep,
  code: 'host-files',
  state: 'partial',
  what: '',
  meaning: HOST_RUNS,
});
const below = (folder: string, names: string): Place[] =>
  names.split(' ').map((name) => hostFile(`${folder}/${name}`));

/** What shells and session managers read from a home directory, and keys that log in. */
const HOME =
  '.ssh .bashrc .bash_profile .bash_login .bash_logout .profile .zshrc .zshenv .config .local .docker .gnupg';
/** Paths from which the host runs code or reads what to run. A mount of a parent folder counts as well. */
const RUN_BY_HOST: readonly Place[] = [
  ...['/', '/etc', '/home', '/home/*', '/root'].map((path) => hostFile(path, false)),
  ...[
    '/usr',
    '/bin',
    '/sbin',
    '/lib',
    '/lib32',
    '/lib64',
    '/boot',
    '/efi',
    '/proc',
    '/sys',
    '/nix',
    '/snap',
  ].map((p) => hostFile(p)),
  ...below(
    '/etc',
    'cron.d cron.hourly cron.daily cron.weekly cron.monthly cron.yearly crontab anacrontab at.allow systemd init.d init rc.local ' +
      'rc0.d rc1.d rc2.d rc3.d rc4.d rc5.d rc6.d rcS.d default conf.d inittab ld.so.preload ld.so.conf ld.so.conf.d ld.so.cache ' +
      'sudoers sudoers.d doas.conf passwd shadow group gshadow security pam.d pam.conf nsswitch.conf profile profile.d bash.bashrc ' +
      'bashrc zsh environment environment.d ssh modprobe.d modules modules-load.d udev initramfs-tools dracut.conf.d grub.d ' +
      'kernel sysctl.conf sysctl.d docker containerd containers cni crio apt dpkg yum.repos.d dnf pacman.d apk dbus-1 ' +
      'polkit-1 NetworkManager network netplan dhcp dhcpcd.conf ppp logrotate.conf logrotate.d rsyslog.conf rsyslog.d ' +
      'update-motd.d xdg X11 acpi pm fstab crypttab selinux apparmor apparmor.d alternatives letsencrypt/renewal ' +
      'letsencrypt/renewal-hooks nftables.conf iptables ufw firewalld libnl kubernetes',
  ),
  ...below('/root', HOME),
  ...below('/root', 'bin'),
  ...below('/home/*', HOME),
  ...below('/home/*', 'bin'),
  ...below('/var/spool', 'cron at anacron incron'),
  ...below(
    '/var/lib',
    'containers kubelet rancher dpkg rpm pacman snapd flatpak cloud systemd NetworkManager dhcp polkit-1 dkms initramfs-tools dbus',
  ),
  ...below('/run', 'systemd/system systemd/generator systemd/transient udev/rules.d NetworkManager'),
  ...below('/opt', 'containerd cni bin'),
  ...below('/var', 'snap'),
];

const KEEPS_CONTAINERS = 'it can change the images and the settings of every container, its own included';
const engineFiles = (path: string, what: string): Place => ({
  path,
  by: 'write',
  isDeep: true,
  code: 'engine-files',
  state: 'unenforced',
  what,
  meaning: KEEPS_CONTAINERS,
});
const ownFiles = (path: string, what: string): Place => ({
  ...engineFiles(path, what),
  code: 'own-files',
  meaning: 'it can change its own policy',
});

/** Everything that is looked for, as paths and patterns. */
export function placesOf(own: OwnPlaces, engine: EnginePlaces | undefined): readonly Place[] {
  const dataRoot = engine?.dataRoot ?? '';
  const all = [
    docker(own.dockerSocket),
    ...(own.apiSocket ? [apiSocket(own.apiSocket)] : []),
    ...(own.storeSocket ? [storeSocket(own.storeSocket)] : []),
    ...SOCKETS,
    ...(engine?.sockets ?? []).map((path) => runtime(path, 'a socket of a container engine')),
    ...RUN_BY_HOST,
    ...(dataRoot === '' ? [] : [engineFiles(dataRoot, 'Docker keeps its containers')]),
    engineFiles('/var/lib/containerd', 'containerd keeps its containers'),
    ownFiles(own.state, 'Drawbridge keeps its state'),
    ownFiles(own.allowlists, 'Drawbridge keeps its allowlists'),
    ownFiles('/etc/drawbridge', 'Drawbridge keeps its configuration'),
  ];
  return all.filter((p, i) => all.findIndex((q) => q.path === p.path && q.by === p.by) === i);
}

const apiSocket = (path: string): Place => ({
  ...runtime(path, "Drawbridge's own socket"),
  code: 'own-socket',
  meaning: 'it can change its own policy',
});
const storeSocket = (path: string): Place => ({
  ...apiSocket(path),
  code: 'store-socket',
  what: "the socket of Drawbridge's store",
});

/** What the kernel shows of one container's mounts, and what of the host it is compared with. */
export interface MountFacts {
  readonly mounted: readonly Mounted[];
  readonly places: readonly HostPlace[];
  readonly dataRoot: Location | undefined;
}

/** Something of the host that is mounted into a container. */
export interface Mounted {
  readonly destination: string;
  /** The host's own path to it, without symbolic links, as far as one is known. */
  readonly path: string;
  readonly location: Location;
  /** "DEVICE:INODE"; undefined: not looked at. */
  readonly inode?: string;
  readonly isReadOnly: boolean;
  /** Type of the file system; empty: not known. */
  readonly type: string;
}

/** A place that exists on this host. */
export interface HostPlace extends Place {
  readonly location: Location;
  readonly inode?: string;
}
