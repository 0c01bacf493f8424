#!/bin/sh
# First process of the guest machine: devices, network, then the job; the console carries its words to the test.
export PATH=/bin:/sbin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
for module in $(cat /modules/order); do insmod "/modules/$module.ko" || echo "GUEST no module $module"; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
for word in $(cat /proc/cmdline); do
    case $word in PORT=* | IMAGE=*) export "$word" ;; esac
done
sh /job.sh
echo "GUEST-EXIT $?"
sync
poweroff -f
