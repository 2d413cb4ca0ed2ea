#!/bin/sh
# Bakes what the bundle brings into an EKS-optimized AL2023 instance: images, certificates, registry hosts.
# Needs root, and nothing from the network. May run twice. usage: bake.sh PAYLOAD FACTS
set -eu

payload=$1
facts=$2
tab=$(printf '\t')
pin=io.cri-containerd.pinned=pinned
step='reading the payload'

on_exit() {
  code=$?
  [ "$code" -eq 0 ] || echo "bake: failed at: $step" >&2
}
trap on_exit EXIT

fail() {
  echo "bake: $*" >&2
  exit 1
}

begin() {
  step=$*
  echo "bake: $step"
}

k8s() {
  ctr --namespace k8s.io "$@" </dev/null
}

find_platform() {
  case $(uname -m) in
    x86_64) platform=linux/amd64 ;;
    aarch64) platform=linux/arm64 ;;
    *) fail "no platform for $(uname -m)" ;;
  esac
}

# A name where containerd keeps its own pause image; it cannot be pulled again, so nothing may take its place.
is_reserved() {
  case $1 in
    localhost/kubernetes/pause*) return 0 ;;
    *) return 1 ;;
  esac
}

start_containerd() {
  begin 'starting containerd'
  systemctl start containerd
  tries=0
  until ctr version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || fail 'containerd does not answer'
    sleep 0.5
  done
}

# containerd 2 imports by its transfer service, which knows fewer options, unless told otherwise.
import_archive() {
  if k8s images import --help 2>&1 | grep -q -e '--local'; then
    k8s images import --local --platform "$platform" "$1"
  else
    k8s images import --platform "$platform" "$1"
  fi
}

digest_of() {
  k8s images ls | awk -v name="$1" '$1 == name { print $3 }'
}

need_digest() {
  found=$(digest_of "$1")
  [ "$found" = "$2" ] || fail "$1 is ${found:-absent}, and not $2"
}

# names: the rest of a line of images.list; the archive itself gives the image the first of them.
name_image() {
  digest=$1
  first=${2%%"$tab"*}
  rest=$2
  while [ -n "$rest" ]; do
    name=${rest%%"$tab"*}
    case $rest in
      *"$tab"*) rest=${rest#*"$tab"} ;;
      *) rest= ;;
    esac
    [ "$name" = "$first" ] || k8s images tag --force "$first" "$name" >/dev/null
    k8s images label "$name" "$pin" >/dev/null
    need_digest "$name" "$digest"
  done
}

import_images() {
  [ -f "$payload/images.list" ] || return 0
  while IFS="$tab" read -r archive digest names; do
    begin "importing $archive (${names%%"$tab"*})"
    for name in $names; do
      if is_reserved "$name"; then fail "$name is the name of an image that stays as it is"; fi
    done
    import_archive "$payload/images/$archive"
    begin "naming $archive (${names%%"$tab"*})"
    name_image "$digest" "$names"
  done <"$payload/images.list"
}

install_certificates() {
  [ -f "$payload/certificates.pem" ] || return 0
  begin 'installing certificates'
  install -D -m 0644 "$payload/certificates.pem" /etc/pki/ca-trust/source/anchors/eks-bundler.pem
  update-ca-trust
}

install_hosts() {
  [ -d "$payload/hosts" ] || return 0
  begin 'installing registry hosts'
  for file in "$payload"/hosts/*/*; do
    host=$(basename "$(dirname "$file")")
    install -D -m 0644 "$file" "/etc/containerd/certs.d/$host/$(basename "$file")"
  done
}

write_release() {
  begin 'writing /etc/eks/bundle-release'
  install -D -m 0644 "$payload/bundle-release" /etc/eks/bundle-release
}

find_platform
start_containerd
import_images
install_certificates
install_hosts
write_release
begin 'writing facts'
sh "$payload/facts.sh" "$facts"
begin 'stopping containerd'
systemctl stop containerd
sync
