#!/bin/busybox sh
# The guest's first process: mounts what the script expects, runs it, reports
# on the second serial port and switches the machine off. guest/report.rs tells
# what the report looks like.
#
# With NETIO_INIT, from the kernel's command line, it becomes that program, and the
# rest goes on beside it.
export PATH=/bin HOME=/root
if [ -n "$NETIO_INIT" ] && [ -z "$NETIO_DISK" ]; then
    # No process can be given another root than the file system that the kernel
    # unpacked into memory, while it is the root: so to another one.
    export NETIO_DISK=1
    /bin/busybox mkdir /disk
    /bin/busybox mount -t tmpfs tmpfs /disk
    for entry in /*; do
        [ "$entry" = /disk ] || /bin/busybox cp -a "$entry" /disk/
    done
    exec /bin/busybox switch_root /disk /init
fi
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for dir in /tmp /run /results; do mount -t tmpfs tmpfs $dir; done
ip link set lo up

work() {
    # Raw, so that the terminal layer changes no byte.
    stty -F /dev/ttyS1 raw -echo
    exec 3>/dev/ttyS1
    echo "boot $(uname -r)" >&3

    for module in /modules/*.ko; do
        [ -e "$module" ] || continue
        insmod "$module" || echo "out the guest could not load $module" >&3
    done

    { sh /script 2>&1; echo $? >/run/status; } </dev/null |
        while IFS= read -r line || [ -n "$line" ]; do printf 'out %s\n' "$line" >&3; done

    for file in /results/*; do
        [ -f "$file" ] || continue
        echo "file ${file##*/} $(sha256sum <"$file" | cut -d' ' -f1)" >&3
        xxd -p -c 60 "$file" | sed 's/^/data /' >&3
    done
    echo "status $(cat /run/status)" >&3
    # What was written must have left before the power goes.
    exec 3>&-
    sync
    poweroff -f
}

if [ -n "$NETIO_INIT" ]; then
    work &
    exec "$NETIO_INIT"
fi
work
