import { errno } from '../../host/errno.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID, type Target } from '../../target/target.ts';
import { EmulatedDevice } from '../dma.ts';
import type { PciFunction } from './function.ts';

/** What a function's own reads and writes of memory answer while software does not let it do any, or none with a PASID. */
export const NOT_BUS_MASTER = -errno.EACCES;

/**
 * DMA of a PCI function: translated by the IOMMU for its requester ID, and only while its bus master enable is set; with a PASID, only
 * while it may use them.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const fn = new PciFunction({ vendor: 0x1234, device: 1, classCode: 0xff0000 });
 * const dma = new FunctionDma(fn, 8, target, memory);
 * dma.write(0x1000n, Uint8Array.of(7)); // -13: its bus master enable is 0
 * fn.writeConfig(4, 2, 4);
 * dma.write(0x1000n, Uint8Array.of(7)); // 0
 */
export class FunctionDma extends EmulatedDevice {
  readonly #fn: PciFunction;

  constructor(fn: PciFunction, requester: number, target: Target, memory: GuestMemory) {
    super(requester, target, memory);
    this.#fn = fn;
  }

  override transfer(hi: number, lo: number, bytes: Uint8Array, access: number, pasid: number): number {
    const mayAccess = this.#fn.busMaster && (pasid === NO_PASID || this.#fn.mayUsePasids);
    return mayAccess ? super.transfer(hi, lo, bytes, access, pasid) : NOT_BUS_MASTER;
  }
}
