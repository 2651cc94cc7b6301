import type { Address, Qtest } from './qtest.ts';

/*
 * PCI configuration space over qtest (PCI Local Bus 3.0, chapter 6; PCI Express 6.0, 7.2). No firmware runs, so whoever
 * wants a device's registers puts its BARs somewhere:
 *
 *   const iommu = await PciFunction.find(portConfig(qemu), bdf(0, 3, 0));   // q35
 *   const device = await PciFunction.find(ecamConfig(qemu, 0x30000000), bdf(0, 1, 0));   // riscv64 virt; aarch64 virt: 0x4010000000n
 *   await iommu.mapBar(4, 0xe0000000);   // sizes it and puts it there; 64-bit BARs take the next one too
 *   await iommu.enable();                // memory space and bus master
 *
 * Free for BARs: q35 0xc0000000–0xfebfffff; aarch64 virt 0x10000000–0x3efeffff; riscv64 virt 0x40000000–0x7fffffff.
 */

/** 32-bit accesses to configuration space; `register` is a multiple of 4. */
export interface PciConfig {
  read(bdf: number, register: number): Promise<number>;
  write(bdf: number, register: number, value: number): Promise<void>;
}

export function bdf(bus: number, device: number, fn: number): number {
  return (bus << 8) | (device << 3) | fn;
}

/** Mechanism #1: ports 0xcf8 and 0xcfc of a PC (PCI 3.0, 3.2.2.3.2). The pipeline keeps the two accesses together. */
export function portConfig(qemu: Qtest): PciConfig {
  const select = (bdf: number, register: number) => qemu.outl(0xcf8, 0x8000_0000 | (bdf << 8) | register);
  return {
    read(bdf, register) {
      select(bdf, register);
      return qemu.inl(0xcfc);
    },
    write(bdf, register, value) {
      select(bdf, register);
      return qemu.outl(0xcfc, value);
    },
  };
}

/** Memory-mapped configuration space (PCIe 7.2.2): 4 KiB a function. */
export function ecamConfig(qemu: Qtest, base: Address): PciConfig {
  const at = (bdf: number, register: number) => BigInt(base) + BigInt(bdf * 4096 + register);
  return {
    read: (bdf, register) => qemu.readl(at(bdf, register)),
    write: (bdf, register, value) => qemu.writel(at(bdf, register), value),
  };
}

const COMMAND = 0x04;
const COMMAND_MEMORY = 2;
const COMMAND_BUS_MASTER = 4;
const BAR_0 = 0x10;
const BAR_MEMORY_64 = 4;
const CAPABILITIES = 0x34;

export class PciFunction {
  readonly config: PciConfig;
  readonly bdf: number;
  /** Device ID in the upper half, vendor ID in the lower. */
  readonly id: number;

  /** @throws Error when nothing answers there. */
  static async find(config: PciConfig, bdf: number): Promise<PciFunction> {
    const id = await config.read(bdf, 0);
    if (id === 0xffff_ffff) throw new Error(`no PCI function at 0x${bdf.toString(16)}`);
    return new PciFunction(config, bdf, id);
  }

  private constructor(config: PciConfig, bdf: number, id: number) {
    this.config = config;
    this.bdf = bdf;
    this.id = id;
  }

  /** Puts a memory BAR at an address and returns its size in bytes. @throws Error for an I/O BAR or one that is not there. */
  async mapBar(index: number, address: Address): Promise<number> {
    const register = BAR_0 + 4 * index;
    await this.config.write(this.bdf, register, 0xffff_ffff);
    const mask = await this.config.read(this.bdf, register);
    if (mask === 0 || (mask & 1) !== 0) throw new Error(`BAR${index} of 0x${this.bdf.toString(16)} is no memory BAR: ${mask}`);
    const bytes = -(mask & ~15) >>> 0;
    if (BigInt(address) % BigInt(bytes) !== 0n) throw new Error(`BAR${index} wants an address that is a multiple of ${bytes}`);
    await this.config.write(this.bdf, register, Number(BigInt(address) & 0xffff_ffffn));
    if ((mask & 6) === BAR_MEMORY_64) await this.config.write(this.bdf, register + 4, Number(BigInt(address) >> 32n));
    return bytes;
  }

  /** Lets the function answer in memory space and do DMA. */
  async enable(): Promise<void> {
    const command = await this.config.read(this.bdf, COMMAND);
    await this.config.write(this.bdf, COMMAND, (command & 0xffff) | COMMAND_MEMORY | COMMAND_BUS_MASTER);
  }

  /** Where in configuration space each capability stands, in the order of the list, as [ID, offset] (PCI 3.0, 6.7). */
  async capabilities(): Promise<[id: number, offset: number][]> {
    const found: [number, number][] = [];
    let offset = (await this.config.read(this.bdf, CAPABILITIES)) & 0xfc;
    while (offset !== 0 && found.length < 48) {
      const header = await this.config.read(this.bdf, offset);
      found.push([header & 0xff, offset]);
      offset = (header >>> 8) & 0xfc;
    }
    return found;
  }
}
