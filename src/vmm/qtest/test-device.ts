import { WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID } from '../../target/target.ts';
import type { EngineDma } from '../devices/dma-engine.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';

/** Registers of BAR 0, 32 bits each, and what they say: QEMU's include/hw/misc/iommu-testdev.h, commit 2339d0a1cfac. */
const REG = {
  TRIGGER: 0x00,
  ADDRESS_LO: 0x04,
  ADDRESS_HI: 0x08,
  LENGTH: 0x0c,
  RESULT: 0x10,
  DOORBELL: 0x14,
  ATTRIBUTES: 0x18,
  EXPECTED_LO: 0x1c,
  EXPECTED_HI: 0x20,
  BYTES: 0x24,
} as const;
const Result = {
  DONE: 0,
  IDLE: 0xffff_ffff,
  BUSY: 0xffff_fffe,
  BAD_LENGTH: 0xdead_0001,
  REFUSED: 0xdead_0002,
  UNREADABLE: 0xdead_0003,
  MISMATCH: 0xdead_0004,
  NOT_ARMED: 0xdead_0005,
  BAD_ATTRIBUTES: 0xdead_0006,
} as const;
/** Attributes: secure, space in two bits, and whether the space counts. The two oldest spaces must agree with `secure`. */
const Attribute = { SECURE: 1 << 0, SPACE_SHIFT: 1, SPACE_VALID: 1 << 3 } as const;
const SPACE_NON_SECURE = 1;
const PATTERN = Uint8Array.of(0x78, 0x56, 0x34, 0x12);
const ARMED = 1;
/** Bytes of one DMA; QEMU's device takes as many as there is memory for. */
const LENGTH_LIMIT = 1 << 20;

/** The test device that QEMU's own IOMMU tests drive: writes a pattern to an address, and looks for it where the test expects it. */
export class TestDevice implements RegisterBlock {
  readonly fn: PciFunction;
  readonly #memory: GuestMemory;
  readonly #words = new DataView(new ArrayBuffer(REG.BYTES));
  #dma: EngineDma | null = null;
  #armed = false;

  /** `memory`: where it looks for what it wrote. */
  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.fn = new PciFunction(
      { vendor: 0x1b36, device: 0x0005, classCode: 0xff0000, bars: [{ bytes: 4096, registers: this }] },
      { reset: () => this.#reset() },
    );
    this.#reset();
  }

  attach(dma: EngineDma): void {
    this.#dma = dma;
  }

  /** Reading the trigger does the DMA. */
  read(offset: number, bytes: number): bigint {
    if (bytes !== 4 || offset % 4 !== 0 || offset >= REG.BYTES) return 0n;
    if (offset !== REG.TRIGGER) return BigInt(offset === REG.DOORBELL ? 0 : this.#words.getUint32(offset, true));
    this.#result = this.#perform();
    return 0n;
  }

  write(offset: number, bytes: number, value: bigint): void {
    if (bytes !== 4 || offset % 4 !== 0 || offset >= REG.BYTES || offset === REG.TRIGGER) return;
    this.#words.setUint32(offset, Number(value & 0xffff_ffffn), true);
    if (offset !== REG.DOORBELL) return;
    this.#armed = (value & BigInt(ARMED)) !== 0n;
    this.#result = this.#armed ? Result.BUSY : Result.IDLE;
  }

  set #result(value: number) {
    this.#words.setUint32(REG.RESULT, value, true);
  }

  #address(low: number): bigint {
    return joinHiLo(this.#words.getInt32(low + 4, true), this.#words.getInt32(low, true));
  }

  #perform(): number {
    if (!this.#armed) return Result.NOT_ARMED;
    this.#armed = false;
    const bytes = this.#words.getUint32(REG.LENGTH, true);
    if (bytes === 0 || bytes > LENGTH_LIMIT) return Result.BAD_LENGTH;
    const attributes = this.#words.getUint32(REG.ATTRIBUTES, true);
    const space = (attributes >> Attribute.SPACE_SHIFT) & 3;
    const secure = (attributes & Attribute.SECURE) !== 0;
    if ((attributes & Attribute.SPACE_VALID) !== 0 && space <= SPACE_NON_SECURE && secure !== (space === 0)) return Result.BAD_ATTRIBUTES;
    const data = Uint8Array.from({ length: bytes }, (_, i) => PATTERN[i % 4]!);
    const address = this.#address(REG.ADDRESS_LO);
    const written = this.#dma?.transfer(hiOf(address), loOf(address), data, WRITE, NO_PASID) ?? -1;
    if (written < 0) return Result.REFUSED;
    const expected = this.#address(REG.EXPECTED_LO);
    const found = new Uint8Array(bytes);
    if (this.#memory.read(hiOf(expected), loOf(expected), found, 0, bytes) < 0) return Result.UNREADABLE;
    return found.every((byte, i) => byte === data[i]) ? Result.DONE : Result.MISMATCH;
  }

  #reset(): void {
    new Uint8Array(this.#words.buffer).fill(0);
    this.#armed = false;
    this.#words.setUint32(REG.ATTRIBUTES, SPACE_NON_SECURE << Attribute.SPACE_SHIFT, true);
    this.#result = Result.IDLE;
  }
}
