#!/bin/sh
# Writes what runs on this node image: lines KEY=VALUE, and image<TAB>NAME<TAB>DIGEST<TAB>pinned|unpinned.
# Needs root and a running containerd. usage: facts.sh FILE
set -eu

file=$1
credential_provider=/etc/eks/image-credential-provider/ecr-credential-provider
own_pause=localhost/kubernetes/pause:latest

# One line, without control characters; `absent` where there is nothing.
fact() {
  value=$(printf '%s' "$2" | tr '\n' ' ' | tr -d '[:cntrl:]')
  printf '%s=%s\n' "$1" "${value:-absent}"
}

# 1.36.0 of v1.36.0-eks-abc, 1.6.20 of 1.6.20~ds1.
number() {
  printf '%s' "$1" | sed -e 's/^v//' -e 's/[^0-9.].*$//' -e 's/\.$//'
}

word() {
  [ -z "$(command -v "$1")" ] || "$1" --version | awk -v field="$2" 'NR == 1 { print $field }'
}

digest() {
  [ ! -f "$1" ] || sha256sum "$1" | cut -d ' ' -f 1
}

# nodeadm of AWS's AMIs is built without a version and says 0.0.0: then its digest tells.
nodeadm_version() {
  program=$(command -v nodeadm) || return 0
  said=$("$program" --version 2>/dev/null | awk 'NR == 1 { print $NF }')
  case $said in
    '' | 0.0.0 | *[!A-Za-z0-9.+-]*) echo "sha256:$(digest "$program")" ;;
    *) echo "$said" ;;
  esac
}

# sandbox_image: containerd 1 (configuration version 2); sandbox: containerd 2 (version 3). nodeadm writes this file
# when a node starts; where it does not say yet, what nodeadm will write.
sandbox_image() {
  found=
  if [ -f /etc/containerd/config.toml ]; then
    found=$(sed -n "s/^[[:space:]]*sandbox\(_image\)\{0,1\}[[:space:]]*=[[:space:]]*[\"']\([^\"']*\)[\"'].*/\2/p" \
      /etc/containerd/config.toml | head -n 1)
  fi
  echo "${found:-$own_pause}"
}

# sha256:… are the ids that containerd itself adds, sooner or later.
images() {
  ctr --namespace k8s.io images ls | awk 'NR > 1 && $1 !~ /^sha256:/ {
    pinned = $NF ~ /(^|,)io\.cri-containerd\.pinned=pinned(,|$)/ ? "pinned" : "unpinned"
    printf "image\t%s\t%s\t%s\n", $1, $3, pinned
  }'
}

write_facts() {
  # shellcheck source=/dev/null
  fact os "$(. /etc/os-release && printf '%s' "$PRETTY_NAME")"
  fact architecture "$(uname -m)"
  fact kernel "$(uname -r)"
  fact containerd "$(number "$(word containerd 3)")"
  fact runc "$(number "$(word runc 3)")"
  fact kubelet "$(number "$(word kubelet 2)")"
  fact nodeadm "$(nodeadm_version)"
  fact kubelet_sha256 "$(digest "$(command -v kubelet)")"
  fact credential_provider_sha256 "$(digest "$credential_provider")"
  fact sandbox_image "$(sandbox_image)"
  images
}

write_facts >"$file"
chmod 0644 "$file"
