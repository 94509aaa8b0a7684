#!/bin/sh
# The first process of a node, in its network, PID, UTS and mount namespaces: it gives the node its own view of the
# machine, starts containerd, and becomes dockerd, which ends when containerd does. $NODE is the node's name, $HOME_DIR
# has its files, and $NAME_SERVER is its name server.
set -e
hostname "$NODE"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "nameserver $NAME_SERVER" >"$HOME_DIR/resolv.conf"
mount --bind "$HOME_DIR/resolv.conf" /etc/resolv.conf
# Docker does not use CRI (moby libcontainerd/supervisor/remote_daemon_options.go, WithCRIDisabled). In containerd 2 it
# starts NRI, with one socket for the whole machine (/var/run/nri/nri.sock), so that other nodes' containerd ended.
cat >"$HOME_DIR/containerd.toml" <<EOF
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri"]
EOF
{
    containerd --config "$HOME_DIR/containerd.toml" --root "$HOME_DIR/containerd" --state "$HOME_DIR/containerd.state" \
        --address "$HOME_DIR/containerd.sock" --log-level error >"$HOME_DIR/containerd.log" 2>&1
    while kill -TERM 1; do sleep 1; done
} &
while ! [ -S "$HOME_DIR/containerd.sock" ]; do sleep 0.1; done
exec dockerd --containerd "$HOME_DIR/containerd.sock" --data-root "$HOME_DIR/data" --exec-root "$HOME_DIR/exec" \
    --pidfile "$HOME_DIR/dockerd.pid" --host "unix://$HOME_DIR/docker.sock" --storage-driver overlay2 \
    --log-level warn >"$HOME_DIR/dockerd.log" 2>&1
