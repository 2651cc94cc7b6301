#!/bin/sh
# Runs inside the lab VM: the vitest of the checkout that this file lies in, its results on the VM's one writable folder.
cd "$(dirname "$0")/../../.." || exit 2
exec node node_modules/vitest/vitest.mjs run --configLoader=runner --config test/kernel/vm/vitest.config.ts --reporter=json --outputFile=/mnt/results.json
