#!/bin/sh
# Runs inside the lab VM: the recorded pseries guest over each interface of the real kernel. /mnt/recording is the recording.
cd "$(dirname "$0")/../../.." || exit 2
for host in iommufd vfio-type1; do
  node --import tsx src/cli/main.ts replay /mnt/recording.ndjson.gz --port kernel --host $host --path shadow --json >/mnt/$host.json 2>/mnt/$host.err </dev/null
done
