import { readdirSync, readFileSync } from 'node:fs';
import type { HostDevice } from '../../../src/host/host.ts';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import type { VfioDevice } from '../../../src/host/vfio/group.ts';
import { TceHost } from '../../../src/host/vfio-spapr-tce/index.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import { type DmaOracle, type HostFixture, hostContract } from '../../host/contract.ts';
import { bindToVfio, Edu, Testdev } from '../vm/pci.ts';
import { runCases } from './vitest-shim.ts';

/*
 * Runs inside the ppc64 guest: the host contract over both versions of VFIO's sPAPR TCE driver. The iommu-testdev, which knows whether a write was
 * let through, is the device of the cases; edu, in the same group, reads for it.
 */

/** A page of the default window, within the 28 bits that edu reaches, that no case uses. */
const SCRATCH = 0xfff0;
const NOTHING = 0xeeee_eeee;

const port = await openKernelPort();
const scratch = port.allocate(4096);
const word = new Uint32Array(scratch.buffer, 0, 1);

function functionWith(vendor: string): string {
  const found = readdirSync('/sys/bus/pci/devices').find(
    (address) => readFileSync(`/sys/bus/pci/devices/${address}/vendor`, 'utf8').trim() === vendor,
  );
  if (found === undefined) throw new Error(`no PCI function of vendor ${vendor}`);
  return found;
}
const testdev = bindToVfio(functionWith('0x1b36')).group;
const edu = bindToVfio(functionWith('0x1234')).group;

function dmaOracle(host: TceHost): DmaOracle {
  return {
    async read(device: HostDevice, iova: bigint) {
      const { space } = device as VfioDevice;
      if (space === null) return null;
      const reader = host.openDevice(edu);
      if (space.attach(reader) < 0 || space.map(SCRATCH, pfnOf(scratch.address), 1, READ_WRITE) < 0) throw space.error;
      const engine = new Edu(reader.fd);
      word[0] = NOTHING;
      await engine.fetch(BigInt(SCRATCH) << 12n, 4);
      await engine.fetch(iova, 4);
      word[0] = 0;
      await engine.store(BigInt(SCRATCH) << 12n, 4);
      space.unmap(SCRATCH, 1);
      reader.close();
      // A refused fetch leaves the device's buffer as it was, or empty; no page of a case is either.
      return word[0] === NOTHING || word[0] === 0 ? null : new Uint8Array(scratch.buffer.slice(0, 4));
    },
    write: (device, iova) => (device as VfioDevice).fd >= 0 && new Testdev((device as VfioDevice).fd).write(iova),
  };
}

for (const version of [1, 2] as const) {
  const fixture = (): HostFixture => {
    const host = new TceHost(port, version);
    return { port, host, devices: [testdev], dma: dmaOracle(host), close: () => host.close() };
  };
  hostContract(`vfio-spapr-tce, version ${version}`, fixture, {
    skip: { 'copy shares a range with another space, which outlives the first mapping': 'VFIO containers share no mappings' },
    unmapsAllOrNothing: true,
    programs: 2,
  });
}

await runCases((result) => console.log(`CASE ${JSON.stringify(result)}`));
console.log('CASES DONE');
