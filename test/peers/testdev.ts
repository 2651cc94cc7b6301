import type { PciFunction } from './pci.ts';
import type { Address, Qtest } from './qtest.ts';

/*
 * Two QEMU devices that do DMA when told to: what reaches memory shows what the IOMMU in front of them does.
 *
 * iommu-testdev (`-device iommu-testdev,addr=4.0`): writes any number of bytes at any 64-bit address, at once, and says
 * whether its bus took them. Give it several in one pipeline:
 *   const dma = new IommuTestdev(qemu, 0xe0100000);  await dma.setUp(fn);
 *   const ok = await dma.write(iova, gpa);   // 'done' | 'refused' | 'elsewhere'
 * edu (`-device edu,addr=5.0,dma_mask=0xffffffffffffffff`): reads too, up to 4096 bytes, one at a time; it never says that a DMA
 * failed: what it read tells.
 */

/** `done`: the write went through and stands at the expected address. `elsewhere`: it went through, but not to there. */
export type DmaResult = 'done' | 'refused' | 'elsewhere';

/** Where DMA from the device goes on Arm: the space that its attributes name. */
export type DmaSpace = 'non-secure' | 'secure' | 'realm' | 'root';

/** Registers of BAR0, 32 bits each (QEMU, include/hw/misc/iommu-testdev.h). */
const TRIGGER = 0x00;
const ADDRESS_LO = 0x04;
const ADDRESS_HI = 0x08;
const LENGTH = 0x0c;
const RESULT = 0x10;
const DOORBELL = 0x14;
const ATTRIBUTES = 0x18;
const EXPECTED_LO = 0x1c;
const EXPECTED_HI = 0x20;

const RESULT_REFUSED = 0xdead_0002;
const RESULT_MISMATCH = 0xdead_0004;

/** What the device writes, as little-endian words. */
export const TESTDEV_PATTERN = 0x1234_5678;

const attributes: Record<DmaSpace, number> = { secure: 0b1001, 'non-secure': 0b1010, root: 0b1100, realm: 0b1110 };

function low(address: Address): number {
  return Number(BigInt(address) & 0xffff_ffffn);
}
function high(address: Address): number {
  return Number((BigInt(address) >> 32n) & 0xffff_ffffn);
}

export class IommuTestdev {
  readonly #qemu: Qtest;
  readonly #bar: bigint;

  constructor(qemu: Qtest, bar: Address) {
    this.#qemu = qemu;
    this.#bar = BigInt(bar);
  }

  async setUp(fn: PciFunction): Promise<void> {
    await fn.mapBar(0, this.#bar);
    await fn.enable();
  }

  #set(register: number, value: number): void {
    this.#qemu.writel(this.#bar + BigInt(register), value);
  }

  /**
   * The device writes TESTDEV_PATTERN to `iova`; QEMU then looks for it at guest-physical `expected`. Whatever lay there
   * before is not cleared: see that it is not the pattern.
   * @throws Error when the device answers what it should not: a length of 0, an `expected` outside RAM.
   */
  async write(iova: Address, expected: Address, bytes = 4, space: DmaSpace = 'non-secure'): Promise<DmaResult> {
    this.#set(ATTRIBUTES, attributes[space]);
    this.#set(ADDRESS_LO, low(iova));
    this.#set(ADDRESS_HI, high(iova));
    this.#set(EXPECTED_LO, low(expected));
    this.#set(EXPECTED_HI, high(expected));
    this.#set(LENGTH, bytes);
    this.#set(DOORBELL, 1);
    this.#qemu.readl(this.#bar + BigInt(TRIGGER));
    const result = await this.#qemu.readl(this.#bar + BigInt(RESULT));
    if (result === 0) return 'done';
    if (result === RESULT_REFUSED) return 'refused';
    if (result === RESULT_MISMATCH) return 'elsewhere';
    throw new Error(`iommu-testdev: 0x${result.toString(16)} for iova 0x${iova.toString(16)}`);
  }
}

/** Registers of BAR0 (QEMU, docs/specs/edu.rst). */
const EDU_SOURCE = 0x80;
const EDU_DESTINATION = 0x88;
const EDU_COUNT = 0x90;
const EDU_COMMAND = 0x98;
const EDU_START = 1;
const EDU_TO_MEMORY = 2;
/** The device's own 4 KiB, which only DMA reaches. */
const EDU_BUFFER = 0x4_0000n;
/** A DMA takes this long in virtual time. */
const EDU_NANOSECONDS = 100_000_000;

export class Edu {
  readonly #qemu: Qtest;
  readonly #bar: bigint;

  constructor(qemu: Qtest, bar: Address) {
    this.#qemu = qemu;
    this.#bar = BigInt(bar);
  }

  async setUp(fn: PciFunction): Promise<void> {
    await fn.mapBar(0, this.#bar);
    await fn.enable();
  }

  #dma(source: bigint, destination: bigint, bytes: number, command: number): Promise<number> {
    const set = (register: number, value: bigint) => this.#qemu.writeq(this.#bar + BigInt(register), value);
    set(EDU_SOURCE, source);
    set(EDU_DESTINATION, destination);
    set(EDU_COUNT, BigInt(bytes));
    set(EDU_COMMAND, BigInt(command));
    return this.#qemu.clockStep(EDU_NANOSECONDS);
  }

  /** Fetches bytes (4096 at most) from `iova` into the device's buffer. */
  async fetch(iova: Address, bytes: number): Promise<void> {
    await this.#dma(BigInt(iova), EDU_BUFFER, bytes, EDU_START);
  }

  /** Writes the first bytes of the device's buffer to `iova`. */
  async store(iova: Address, bytes: number): Promise<void> {
    await this.#dma(EDU_BUFFER, BigInt(iova), bytes, EDU_START | EDU_TO_MEMORY);
  }
}
