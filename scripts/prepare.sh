# Sourced by scripts/demo and scripts/test: what they need of this machine, and how it gets there.
# shellcheck shell=bash
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

require_root() {
  [ "$(id -u)" = 0 ] || die "network namespaces need root: sudo $0"
}

# Node itself is the one thing that is not installed: which one, and from where, is yours to say.
require_node() {
  command -v node >/dev/null || die 'node is missing: install Node 20.19 or newer (apt-get install nodejs npm)'
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
    die "node $(node --version) is too old: 20.19 or newer is needed"
}

# command:package
needed_tools=(
  docker:docker-cli dockerd:docker.io iptables:iptables ipset:ipset nft:nftables conntrack:conntrack ip:iproute2
  sysctl:procps tcpdump:tcpdump openssl:openssl nsenter:util-linux npm:npm
)

# What only tests need: a Redis, an independent judge of aggregation, a language to forge packets in, shells, programs that
# must go on working: builds, compose, pip, curl, git, HTTP/3, and Go, whose TLS has encrypted hellos. faketime moves the clock of a service.
plugins=/usr/libexec/docker/cli-plugins
test_tools=(
  redis-server:redis-server promtool:prometheus iprange:iprange faketime:faketime python3:python3 zsh:zsh fish:fish /usr/bin/pip3:python3-pip curl:curl git:git strace:strace
  /usr/lib/go-1.24/bin/go:golang-1.24-go /usr/lib/python3/dist-packages/aioquic/__init__.py:python3-aioquic
  /usr/lib/python3/dist-packages/requests/__init__.py:python3-requests
  "$plugins/docker-compose:docker-compose" "$plugins/docker-buildx:docker-buildx"
)

# missing_packages TOOL…: packages whose command or file is missing, a line each. The containers' one program must run without
# any library.
missing_packages() {
  local tool
  for tool in "$@"; do
    command -v "${tool%%:*}" >/dev/null || [ -f "${tool%%:*}" ] || echo "${tool#*:}"
  done
  if ! [ -x /bin/busybox ] || ldd /bin/busybox >/dev/null 2>&1; then echo busybox-static; fi
}

# Fails when the package index is missing or old: then it is fetched, once.
install_packages() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "apt-get is missing; install these yourself: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y --no-install-recommends "$@" </dev/null >/dev/null 2>&1 && return 0
  apt-get update </dev/null >/dev/null || die 'apt-get update failed: see above'
  apt-get install -y --no-install-recommends "$@" </dev/null >/dev/null || die "apt-get could not install $*: see above"
}

# True when node_modules is what package-lock.json says.
have_modules() {
  [ -e "$root/node_modules/.package-lock.json" ] &&
    ! [ "$root/package-lock.json" -nt "$root/node_modules/.package-lock.json" ]
}

install_modules() {
  have_modules || (cd "$root" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null)
}
