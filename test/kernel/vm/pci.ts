import { readdirSync, readlinkSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { basename } from 'node:path';

/*
 * PCI devices of the lab VM: who drives them, and the registers of the two that do DMA when told to. Runs inside the VM.
 */

const SYSFS = '/sys/bus/pci/devices';

/** A function that vfio-pci has, and how each interface names it. */
export interface VfioFunction {
  readonly address: string;
  /** For iommufd. */
  readonly cdev: string;
  /** For the group interface. */
  readonly group: string;
}

/** Gives a function to vfio-pci. */
export function bindToVfio(address: string): VfioFunction {
  writeFileSync(`${SYSFS}/${address}/driver_override`, 'vfio-pci');
  const driver = readdirSync(`${SYSFS}/${address}`).includes('driver') ? basename(readlinkSync(`${SYSFS}/${address}/driver`)) : null;
  if (driver !== 'vfio-pci') {
    if (driver !== null) writeFileSync(`${SYSFS}/${address}/driver/unbind`, address);
    writeFileSync('/sys/bus/pci/drivers_probe', address);
  }
  const cdev = readdirSync(`${SYSFS}/${address}/vfio-dev`)[0];
  const group = basename(readlinkSync(`${SYSFS}/${address}/iommu_group`));
  return { address, cdev: `/dev/vfio/devices/${cdev}`, group: `/dev/vfio/${group}#${address}` };
}

// VFIO_PCI_INDEX_TO_OFFSET (include/linux/vfio_pci_core.h): a region of the device file starts at its index << 40.
const CONFIG_SPACE = 7 * 2 ** 40;
const COMMAND = 4;
const COMMAND_MEMORY = 2;
const COMMAND_BUS_MASTER = 4;

/** Registers of BAR 0 of a device file that VFIO gave. */
export class Registers {
  readonly #fd: number;
  readonly #word = new Uint32Array(1);

  /** Lets the device answer and do DMA, which VFIO has taken from it. */
  constructor(fd: number) {
    this.#fd = fd;
    writeSync(fd, new Uint16Array([COMMAND_MEMORY | COMMAND_BUS_MASTER]), 0, 2, CONFIG_SPACE + COMMAND);
  }

  read(offset: number): number {
    readSync(this.#fd, this.#word, 0, 4, offset);
    return this.#word[0];
  }

  write(offset: number, value: number): void {
    this.#word[0] = value;
    writeSync(this.#fd, this.#word, 0, 4, offset);
  }

  /** In one piece: edu takes no halves. */
  write64(offset: number, value: bigint): void {
    writeSync(this.#fd, BigUint64Array.of(value), 0, 8, offset);
  }
}

const low = (address: bigint) => Number(address & 0xffff_ffffn);
const high = (address: bigint) => Number(address >> 32n);

/** What the iommu-testdev writes. */
export const TESTDEV_PATTERN = 0x1234_5678;

/** QEMU's iommu-testdev (docs/specs/iommu-testdev.rst): writes a pattern at any address, and knows whether the bus took it. */
export class Testdev {
  readonly #registers: Registers;

  constructor(fd: number) {
    this.#registers = new Registers(fd);
  }

  /** Writes the pattern, 4 bytes, to an IOVA. False: the IOMMU refused. */
  write(iova: bigint): boolean {
    const registers = this.#registers;
    registers.write(0x04, low(iova));
    registers.write(0x08, high(iova));
    registers.write(0x0c, 4);
    registers.write(0x18, 0b1010);
    // Where it looks for what it has written, by guest-physical address, which a process does not know: page 0.
    registers.write(0x1c, 0);
    registers.write(0x20, 0);
    registers.write(0x14, 1);
    registers.read(0x00);
    return registers.read(0x10) !== 0xdead_0002;
  }
}

/** What edu's first register says: it has the byte order of QEMU's processor, which for POWER is big-endian. */
const EDU_ID = 0x0100_00ed;

/** QEMU's edu (docs/specs/edu.rst): copies up to 4096 bytes between memory and its buffer, 100 ms each time. It does not say when a DMA failed. */
export class Edu {
  readonly #registers: Registers;
  readonly #swapped: boolean;

  constructor(fd: number) {
    this.#registers = new Registers(fd);
    this.#swapped = this.#registers.read(0) !== EDU_ID;
  }

  #write64(offset: number, value: bigint): void {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, value, true);
    this.#registers.write64(offset, view.getBigUint64(0, !this.#swapped));
  }

  get #busy(): boolean {
    return (this.#registers.read(0x98) & (this.#swapped ? 0x100_0000 : 1)) !== 0;
  }

  async #dma(source: bigint, destination: bigint, bytes: number, command: number): Promise<void> {
    this.#write64(0x80, source);
    this.#write64(0x88, destination);
    this.#write64(0x90, BigInt(bytes));
    this.#write64(0x98, BigInt(command));
    while (this.#busy) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Memory to the device's buffer. */
  fetch(iova: bigint, bytes: number): Promise<void> {
    return this.#dma(iova, 0x4_0000n, bytes, 1);
  }

  /** The device's buffer to memory. */
  store(iova: bigint, bytes: number): Promise<void> {
    return this.#dma(0x4_0000n, iova, bytes, 3);
  }
}
