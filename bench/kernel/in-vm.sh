#!/bin/bash
# Runs inside the lab VM: the same mapping sizes by C and by the driver, in turns, each in a fresh process. One line a run: BYTES WHO NANOSECONDS.
cd "$(dirname "$0")/../.." || exit 2
function=0000:00:06.0
echo vfio-pci >/sys/bus/pci/devices/$function/driver_override
echo $function >/sys/bus/pci/drivers_probe
node_=/dev/vfio/devices/$(ls /sys/bus/pci/devices/$function/vfio-dev)
for round in 1 2 3; do
  for job in "4096 3000" "2097152 20" "1073741824 1"; do
    set -- $job
    echo "$1 c $(/mnt/map-unmap $node_ $1 $2)" >>/mnt/results
    echo "$1 viommu $(node --import tsx --no-use-osr bench/kernel/map-unmap.ts $node_ $1 $2)" >>/mnt/results
  done
done
