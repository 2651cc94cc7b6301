import type { HostDevice } from '../../../src/host/host.ts';
import type { Port } from '../../../src/host/port.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import type { DmaOracle } from '../../host/fixture.ts';
import { Edu, Testdev } from '../vm/pci.ts';

/*
 * Two of QEMU's devices as one: the iommu-testdev is the device of the cases, for it knows whether a write was let through; edu joins its space and
 * reads for it.
 */

const NOTHING = 0xeeee_eeee;

/** A space that edu can join. */
interface Joinable {
  attach(device: HostDevice): number;
  map(first: number, hostPfn: number, pages: number, permission: number): number;
  unmap(first: number, pages: number): number;
  readonly error: unknown;
}

/** `spaceOf`: where the device is; null: nowhere. `scratch`: a page that edu can reach (28 bits) and no case uses. */
export function eduOracle(
  port: Port,
  scratchPage: number,
  open: () => HostDevice & { readonly fd: number },
  spaceOf: (device: HostDevice) => Joinable | null,
): DmaOracle {
  const scratch = port.allocate(4096);
  const word = new Uint32Array(scratch.buffer, 0, 1);
  const at = BigInt(scratchPage) << 12n;
  const fdOf = (device: HostDevice) => (device as HostDevice & { readonly fd: number }).fd;
  return {
    async read(device, iova) {
      const space = spaceOf(device);
      if (space === null) return null;
      const reader = open();
      if (space.attach(reader) < 0 || space.map(scratchPage, pfnOf(scratch.address), 1, READ_WRITE) < 0) throw space.error;
      const engine = new Edu(reader.fd);
      word[0] = NOTHING;
      await engine.fetch(at, 4);
      await engine.fetch(iova, 4);
      word[0] = 0;
      await engine.store(at, 4);
      space.unmap(scratchPage, 1);
      reader.close();
      // A refused fetch leaves the device's buffer as it was, or empty; no page of a case is either.
      return word[0] === NOTHING || word[0] === 0 ? null : new Uint8Array(scratch.buffer.slice(0, 4));
    },
    write: (device, iova) => fdOf(device) >= 0 && new Testdev(fdOf(device)).write(iova),
  };
}
