#!/bin/busybox sh
# The guest's first process: makes the machine what /lacks says, runs what /runs names, and switches off. What tests
# print goes to the second serial line; the first one is the kernel's.
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
# Scripts of tests mean the programs that are packed; busybox's shell would prefer its own of the same name.
ln -sf "$(which bash)" /usr/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS1 2>&1
echo "guest: booted $(uname -r)"
grep -q guest.probe /proc/cmdline && poweroff -f

lacks=$(cat /lacks)
[ "$lacks" = without-bpffs ] || mount -t bpf bpffs /sys/fs/bpf
if [ "$lacks" = cgroup-v1 ]; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for controller in cpu memory net_cls,net_prio; do
        mkdir -p "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" || rmdir "/sys/fs/cgroup/$controller"
    done
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
# An empty folder where the kernel's types were.
[ "$lacks" = without-btf ] && mount -t tmpfs tmpfs /sys/kernel/btf
for module in /modules/*.ko; do
    insmod "$module" || echo "guest: $module does not load"
done
ip link set lo up
mkdir -p /etc && echo '127.0.0.1 localhost' >/etc/hosts
# Emulated, it is that much slower than a real machine.
export PROXY_AGENT_TEST_SLOWNESS=20
[ -n "$lacks" ] && export PROXY_AGENT_NODE_LACKS="$lacks"

# Hundredths of a second since boot, as proc(5) counts them: working for programs, for the kernel, and not at all.
spent() {
    read -r _ user nice system idle waiting interrupts soft _ </proc/stat
    set -- $((user + nice)) $((system + interrupts + soft)) $((idle + waiting))
    echo "$@"
}

# A test program in the folder that it expects.
run() {
    name=$1 folder=$2
    shift 2
    if [ "$lacks" = low-memlock ]; then
        ulimit -l 64
        set -- /usr/sbin/setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource "$@"
    fi
    echo "guest: running $name"
    before=$(spent)
    (cd "$folder" && exec "$@")
    echo "guest: $name ended with $?"
    set -- $before $(spent)
    echo "guest: $name took $((($4 - $1) / 100)) s itself, $((($5 - $2) / 100)) s in the kernel, $((($6 - $3) / 100)) s waiting"
}

. /runs
echo "guest: finished"
poweroff -f
