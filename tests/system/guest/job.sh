# A life of an ext4 volume under the kernel's own NBD client. Any failing line ends the job. Paths are whole because
# busybox has programs of some of these names itself.
set -e
DEVICE=/dev/nbd0
/sbin/nbd-client 10.0.2.2 "$PORT" "$DEVICE" -N "$IMAGE" -b 4096 -t 60
echo "GUEST size $(blockdev --getsize64 $DEVICE)"
/sbin/mke2fs -q -t ext4 "$DEVICE"
mkdir -p /volume
mount -t ext4 "$DEVICE" /volume
cp /books/* /volume/
echo "GUEST-WRITING"
folder=0
while [ $folder -lt 20 ]; do
    mkdir /volume/$folder
    file=0
    while [ $file -lt 100 ]; do
        echo "$folder/$file: the file that says so" >/volume/$folder/$file
        file=$((file + 1))
    done
    dd if=/dev/urandom of=/volume/$folder/random bs=64k count=4 conv=fsync 2>/dev/null
    folder=$((folder + 1))
done
(cd /volume && find . -type f | sort | xargs sha256sum) >/tmp/sums
rm -r /volume/19
/sbin/fstrim /volume
umount /volume
/sbin/e2fsck -fn "$DEVICE"
echo 3 >/proc/sys/vm/drop_caches
blockdev --flushbufs "$DEVICE"
mount -t ext4 "$DEVICE" /volume
(cd /volume && grep -v ' \./19/' /tmp/sums | sha256sum -c >/dev/null)
echo "GUEST-SUMS-EQUAL $(grep -vc ' \./19/' /tmp/sums)"
umount /volume
/sbin/nbd-client -d "$DEVICE"
echo "GUEST-DONE"
