"""What a node disk has in the place of AL2023's own programs and settings: scripts that say what they are."""

from __future__ import annotations

PAUSE = "localhost/kubernetes/pause:latest"
"""AL2023's own name for the sandbox image; containerd holds it pinned, so that no kubelet collects it."""
SUDO_SHELL = "usr/libexec/lab-sudo-shell"
"""A copy of bash that is root whoever starts it: the kernel heeds that of an interpreter, never of a script."""
_LABEL = "Stand-in of the eks-bundler lab, not the program of this name."

_OS_RELEASE = """\
NAME="Amazon Linux"
VERSION="2023"
ID="amzn"
ID_LIKE="fedora"
VERSION_ID="2023"
PLATFORM_ID="platform:al2023"
PRETTY_NAME="Amazon Linux 2023 (lab stand-in)"
"""

_USERS = """\
root:x:0:0:root:/root:/bin/bash
ec2-user:x:1000:1000:EC2 Default User:/home/ec2-user:/bin/bash
"""

_CONTAINERD = f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"""

# A snapshotter of plain folders: the overlay one cannot work where the lab itself runs in an overlay.
_ENVIRONMENT = """\
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
LANG=C.UTF-8
CONTAINERD_SNAPSHOTTER=native
"""

_SYSTEMCTL = f"""\
#!/bin/bash
# {_LABEL} It knows one unit, containerd.
verb='' units=()
for word; do
  case $word in
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$word; else units+=("${{word%.service}}"); fi ;;
  esac
done
runs() {{ [ -s /run/containerd.pid ] && [ -d "/proc/$(cat /run/containerd.pid)" ]; }}
start() {{
  runs && return 0
  mkdir -p /run/containerd
  setsid /usr/bin/containerd >>/run/containerd.log 2>&1 </dev/null &
  echo $! >/run/containerd.pid
  for _ in $(seq 300); do
    ctr version >/dev/null 2>&1 && return 0
    runs || break
    sleep 0.1
  done
  echo "Job for containerd.service failed: $(tail -n 3 /run/containerd.log)" >&2
  return 1
}}
stop() {{
  runs || return 0
  kill "$(cat /run/containerd.pid)"
  for _ in $(seq 300); do
    runs || {{ rm -f /run/containerd.pid; return 0; }}
    sleep 0.1
  done
  return 1
}}
[ "$verb" = daemon-reload ] && exit 0
for unit in "${{units[@]}}"; do
  if [ "$unit" != containerd ]; then
    case $verb in
      is-active) echo inactive; exit 3 ;;
      *) echo "Failed to $verb $unit.service: Unit $unit.service not found (the lab knows containerd only)." >&2
         exit 5 ;;
    esac
  fi
  case $verb in
    start) start || exit 1 ;;
    stop) stop || exit 1 ;;
    restart) stop && start || exit 1 ;;
    enable | disable) ;;
    is-active) if runs; then echo active; else echo inactive; exit 3; fi ;;
    *) echo "systemctl (lab stand-in): does not know $verb" >&2; exit 1 ;;
  esac
done
"""

_SUDO = f"""\
#!/{SUDO_SHELL} -p
# {_LABEL} Its shell is setuid root; without -E it takes the environment away, as sudo does.
keep='' variables=()
while [ $# -gt 0 ]; do
  case $1 in
    -E | --preserve-env) keep=yes ;;
    --preserve-env=*)
      for name in $(echo "${{1#*=}}" | tr , ' '); do [ -v "$name" ] && variables+=("$name=${{!name}}"); done ;;
    -n | -H | -S | -k) ;;
    -u | -g) [ "$2" = root ] || {{ echo "sudo (lab stand-in): knows no user but root" >&2; exit 1; }}; shift ;;
    --) shift; break ;;
    -*) echo "sudo (lab stand-in): does not know $1" >&2; exit 1 ;;
    *=*) variables+=("$1") ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || {{ echo "usage: sudo [-E] [VAR=value] command" >&2; exit 1; }}
user=(HOME=/root USER=root LOGNAME=root SUDO_USER=ec2-user SUDO_UID=1000)
root=(setpriv --reuid=0 --regid=0 --clear-groups)
[ -n "$keep" ] && exec "${{root[@]}}" env "${{user[@]}}" "${{variables[@]}}" "$@"
mapfile -t login </etc/environment
exec "${{root[@]}}" env -i "${{login[@]}}" "${{user[@]}}" "${{variables[@]}}" "$@"
"""

_UPDATE_CA_TRUST = f"""\
#!/bin/bash
# {_LABEL} It puts the anchors into one bundle.
set -eu
folder=/etc/pki/ca-trust
mkdir -p "$folder/extracted/pem"
find "$folder/source/anchors" -type f | sort | xargs -r cat >"$folder/extracted/pem/tls-ca-bundle.pem.new"
mv "$folder/extracted/pem/tls-ca-bundle.pem.new" "$folder/extracted/pem/tls-ca-bundle.pem"
"""


def programs(kubelet_version: str) -> dict[str, str]:
    """Return the scripts by path; `kubelet_version` such as v1.36.0."""
    return {
        "usr/bin/systemctl": _SYSTEMCTL,
        "usr/bin/sudo": _SUDO,
        "usr/bin/update-ca-trust": _UPDATE_CA_TRUST,
        "usr/bin/kubelet": _says(f"Kubernetes {kubelet_version}"),
        "usr/bin/nodeadm": _says("nodeadm lab-stand-in"),
        "etc/eks/image-credential-provider/ecr-credential-provider": _says(kubelet_version),
    }


def settings() -> dict[str, str]:
    """Return the configuration files by path."""
    return {
        "etc/os-release": _OS_RELEASE,
        "etc/system-release": "Amazon Linux release 2023 (lab stand-in)\n",
        "etc/environment": _ENVIRONMENT,
        "etc/passwd": _USERS,
        "etc/group": "root:x:0:\ntty:x:5:\nec2-user:x:1000:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "etc/fstab": "UUID=6b756265-6c65-7420-6c61-62206469736b / ext4 defaults,noatime 1 1\n",
        "etc/machine-id": "",
        "etc/containerd/config.toml": _CONTAINERD,
        "etc/eks-bundler-lab": "A node disk of the eks-bundler lab: Debian's programs, and stand-ins for AL2023's.\n",
    }


def _says(text: str) -> str:
    return f"#!/bin/sh\n# {_LABEL} It tells a version and does nothing.\necho '{text}'\n"
