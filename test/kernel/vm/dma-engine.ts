import { DMA_BUSY, DMA_DONE, DMA_READ, DMA_REGISTERS, DMA_WRITE } from '../dma-device.ts';
import { Registers } from './pci.ts';

/** The driver, inside the VM, of the device that dma-device.ts is outside of it. */
export class DmaEngine {
  readonly #registers: Registers;

  /** `fd`: the device's file, as VFIO gave it. */
  constructor(fd: number) {
    this.#registers = new Registers(fd);
  }

  /** Does it, and says whether it was let through. */
  #dma(command: number, iova: bigint): boolean {
    const registers = this.#registers;
    registers.write(DMA_REGISTERS.addressLow, Number(iova & 0xffff_ffffn));
    registers.write(DMA_REGISTERS.addressHigh, Number(iova >> 32n));
    registers.write(DMA_REGISTERS.command, command);
    for (;;) {
      const status = registers.read(DMA_REGISTERS.status);
      if (status !== DMA_BUSY) return status === DMA_DONE;
    }
  }

  /** Four bytes, or null when the access was refused. */
  read(iova: bigint): Uint8Array | null {
    if (!this.#dma(DMA_READ, iova)) return null;
    return new Uint8Array(Uint32Array.of(this.#registers.read(DMA_REGISTERS.data)).buffer);
  }

  /** False: refused. */
  write(iova: bigint, bytes: Uint8Array): boolean {
    this.#registers.write(DMA_REGISTERS.data, new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true));
    return this.#dma(DMA_WRITE, iova);
  }
}
