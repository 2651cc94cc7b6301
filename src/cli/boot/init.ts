/**
 * What the guest does, as a shell script for busybox. All that it says goes to the kernel's log, which the console shows even where no interrupt
 * of the serial port arrives: `viommu: check NAME ok`, `viommu: check NAME failed …`, `viommu: note …`, `viommu: end`.
 */
export const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

say() { echo "<5>viommu: $*" >/dev/kmsg; }
check() {
  name=$1; shift
  if "$@" >/tmp/out 2>&1; then say "check $name ok"; else say "check $name failed: $(head -c 300 /tmp/out | tr '\\n' ' ')"; fi
}
wanted() { grep -q "viommu.do=[^ ]*$1" /proc/cmdline; }
# Waits up to 30 s until a command succeeds.
await() { i=0; until "$@"; do i=$((i + 1)); [ $i -lt 300 ] || return 1; usleep 100000; done; }

say "note kernel $(uname -r) with $(nproc) processors"
for m in $(cat /modules/list); do insmod /modules/$m.ko 2>/tmp/out || say "note insmod $m: $(cat /tmp/out)"; done

# Whom a driver has is whom the IOMMU's has too, wherever that came later.
echo 1efd ed0a >/sys/bus/pci/drivers/pci-stub/new_id

disk() { await test -b /dev/vda; }
write() { dd if=/dev/urandom of=/mnt/data bs=64k count=48 && sha256sum /mnt/data >/mnt/sum && sync && umount /mnt; }
again() { echo 3 >/proc/sys/vm/drop_caches; mount -t ext2 /dev/vda /mnt && sha256sum -c /mnt/sum && umount /mnt; }
group() { test -e /sys/bus/pci/devices/$1/iommu_group && say "note $1 is in group $(basename $(readlink /sys/bus/pci/devices/$1/iommu_group)) of type $(cat /sys/bus/pci/devices/$1/iommu_group/type)"; }

check disk disk
for d in /sys/bus/pci/devices/*; do [ -e $d/iommu_group ] && group $(basename $d); done
blk=$(basename $(dirname $(dirname $(readlink -f /sys/block/vda))) 2>/dev/null | sed 's/^virtio.*//')
[ -n "$blk" ] || blk=$(basename $(readlink -f /sys/block/vda/device/..))
check behind-iommu test -e /sys/bus/pci/devices/$blk/iommu_group

if wanted reboot && mount -t ext2 /dev/vda /mnt 2>/dev/null; then
  umount /mnt
  check persist again
  say end
  poweroff -f
fi
check mkfs mke2fs -F /dev/vda
check mount mount -t ext2 /dev/vda /mnt
check write write
check read-back again

if wanted rebind; then
  at=/sys/bus/pci/devices/$blk
  # Between two drivers, each way to reset the function that Linux has found in its capabilities.
  resets() {
    echo $blk >$at/driver/unbind && say "note $blk is reset by $(cat $at/reset_method)" || return 1
    for way in flr pm; do echo $way >$at/reset_method && echo 1 >$at/reset || return 1; done
  }
  # A driver for user space turns off what nobody has opened.
  userspace() {
    echo vfio-pci >$at/driver_override && echo $blk >/sys/bus/pci/drivers_probe && await grep -q D3hot $at/power_state &&
      echo $blk >$at/driver/unbind && grep -q D0 $at/power_state
  }
  rebind() { echo >$at/driver_override; echo $blk >/sys/bus/pci/drivers/virtio-pci/bind && disk && again; }
  check reset resets
  [ -e /sys/bus/pci/drivers/vfio-pci ] && check vfio-pci userspace
  check rebind rebind
fi

if wanted network; then
  network() { ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && ping -c 3 -s 1400 10.0.2.2; }
  entropy() { dd if=/dev/hwrng of=/tmp/random bs=1024 count=4 && [ $(tr -d '\\000' </tmp/random | wc -c) -gt 4000 ]; }
  check network network
  check entropy entropy
fi

# The DMA engine: its driver maps nothing, so none of its DMA is allowed. Register numbers are ENGINE's (src/vmm/devices/dma-engine.ts).
for d in /sys/bus/pci/devices/*; do
  [ "$(cat $d/vendor $d/device | tr '\\n' ' ')" = "0x1efd 0xed0a " ] && engine=$d
done
forbidden() {
  [ -n "$engine" ] || return 1
  printf '\\006\\004' | dd of=$engine/config bs=1 seek=4 conv=notrunc
  bar=$(head -n 1 $engine/resource | cut -d ' ' -f 1)
  devmem $((bar + 0x08)) 32 0xdead0000
  devmem $((bar + 0x0c)) 32 0
  devmem $((bar + 0x10)) 32 64
  devmem $((bar + 0x18)) 32 2
  result=$(devmem $((bar + 0x1c)) 32)
  say "note forbidden DMA of $(basename $engine) ended with $result"
  [ $((result)) -ge $((0x80000000)) ]
}
check forbidden-dma forbidden
sleep 1
grep -E 'virtio|DMAR|AMD-Vi|smmu|iommu' /proc/interrupts | while read line; do say "note interrupt $line"; done
if wanted reboot; then
  say "note rebooting"
  sync
  reboot -f
fi
say end
poweroff -f
`;
