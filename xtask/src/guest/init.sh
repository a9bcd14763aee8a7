#!/bin/busybox sh
# The guest's first process: mounts what the script expects, runs it, reports
# on the second serial port and switches the machine off. guest/report.rs tells
# what the report looks like.
export PATH=/bin HOME=/root
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
