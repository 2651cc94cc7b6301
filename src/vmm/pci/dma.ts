import { errno } from '../../host/errno.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Target } from '../../target/target.ts';
import { EmulatedDevice } from '../dma.ts';
import type { PciFunction } from './function.ts';

/** What a function's own reads and writes of memory answer while software does not let it do any. */
export const NOT_BUS_MASTER = -errno.EACCES;

/** DMA of a PCI function: translated by the IOMMU for its requester ID, and only while its bus master enable is set. */
export class FunctionDma extends EmulatedDevice {
  readonly #fn: PciFunction;

  constructor(fn: PciFunction, requester: number, target: Target, memory: GuestMemory) {
    super(requester, target, memory);
    this.#fn = fn;
  }

  override transfer(hi: number, lo: number, bytes: Uint8Array, access: number, pasid: number): number {
    return this.#fn.busMaster ? super.transfer(hi, lo, bytes, access, pasid) : NOT_BUS_MASTER;
  }
}
