#!/bin/sh
# Removes what belongs to the builder and not to the AMI: payload, keys, identity, logs. Runs last, for nobody can
# log in afterwards. Needs root. usage: cleanup.sh PAYLOAD FACTS
set -eu

payload=$1
facts=$2

# Blocks of zeros are not carried; those of a file that is merely removed would be.
forget_payload() {
  [ ! -d "$payload" ] || find "$payload" -type f -name '*.tar' -exec shred -n 0 -z {} +
  rm -rf "$payload" "$facts"
}

forget_login() {
  user_home=$(getent passwd "${SUDO_USER:-root}" | cut -d : -f 6)
  for home in /root "$user_home"; do
    rm -f "$home/.ssh/authorized_keys" "$home/.bash_history"
  done
  rm -f /etc/ssh/ssh_host_*
}

forget_identity() {
  rm -rf /var/lib/cloud/data /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/sem
  rm -f /etc/hostname /var/lib/systemd/random-seed
  [ ! -f /etc/machine-id ] || : >/etc/machine-id
}

forget_logs() {
  rm -rf /var/log/journal/* /var/log/audit/*
  rm -f /var/log/cloud-init.log /var/log/cloud-init-output.log /var/log/messages /var/log/secure /var/log/wtmp
}

forget_payload
forget_login
forget_identity
forget_logs
sync
