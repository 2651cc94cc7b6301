import { readdirSync, readFileSync } from 'node:fs';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import type { VfioDevice } from '../../../src/host/vfio/group.ts';
import { TceHost } from '../../../src/host/vfio-spapr-tce/index.ts';
import { hostContract } from '../../host/contract.ts';
import type { HostFixture } from '../../host/fixture.ts';
import { eduOracle } from '../foreign/edu-oracle.ts';
import { runCases } from '../foreign/vitest-shim.ts';
import { bindToVfio } from '../vm/pci.ts';

/*
 * Runs inside the ppc64 guest: the host contract over both versions of VFIO's sPAPR TCE driver. The iommu-testdev, which knows whether a write was
 * let through, is the device of the cases; edu, in the same group, reads for it.
 */

/** A page of the default window, within the 28 bits that edu reaches, that no case uses. */
const SCRATCH = 0xfff0;

const port = await openKernelPort();

function functionWith(vendor: string): string {
  const found = readdirSync('/sys/bus/pci/devices').find(
    (address) => readFileSync(`/sys/bus/pci/devices/${address}/vendor`, 'utf8').trim() === vendor,
  );
  if (found === undefined) throw new Error(`no PCI function of vendor ${vendor}`);
  return found;
}
const testdev = bindToVfio(functionWith('0x1b36')).group;
const edu = bindToVfio(functionWith('0x1234')).group;

for (const version of [1, 2] as const) {
  const fixture = (): HostFixture => {
    const host = new TceHost(port, version);
    const dma = eduOracle(
      port,
      SCRATCH,
      () => host.openDevice(edu),
      (device) => (device as VfioDevice).space,
    );
    return { port, host, devices: [testdev], dma, close: () => host.close() };
  };
  hostContract(`vfio-spapr-tce, version ${version}`, fixture, {
    skip: { 'copy shares a range with another space, which outlives the first mapping': 'VFIO containers share no mappings' },
    unmapsAllOrNothing: true,
    programs: 2,
  });
}

await runCases((result) => console.log(`CASE ${JSON.stringify(result)}`));
console.log('CASES DONE');
