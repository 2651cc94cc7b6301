import { PAGE_BYTES } from '../../../memory/address.ts';
import type { GuestMemory, GuestRegion } from '../../../memory/guest-memory.ts';
import type { PfnRange } from '../../target.ts';
import { PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN, ProtectedMemoryEnable } from '../spec/registers.ts';
import type { Registers } from './registers.ts';

/** Pages of a protected region's alignment: bits below are not implemented, 0 in a base and 1 in a limit (11.4.8.2). */
const ALIGNMENT = 512;

const NO_REGIONS: GuestMemory['regions'] = [];

/**
 * Protected low and high memory (11.4.8): while it is enabled, what no table decides about does not reach it. Requests that are
 * remapped may, as the specification lets an implementation choose.
 */
export class ProtectedMemory {
  #ranges: readonly PfnRange[] = [];
  readonly #registers: Registers;

  constructor(registers: Registers) {
    this.#registers = registers;
  }

  /** What is protected now, as page frame numbers. */
  get ranges(): readonly PfnRange[] {
    return this.#ranges;
  }

  holds(pfn: number): boolean {
    for (const { first, last } of this.#ranges) if (pfn >= first && pfn <= last) return true;
    return false;
  }

  /** Reads the registers. Returns whether something else is protected than before. */
  update(): boolean {
    const before = this.#ranges;
    const enabled = (this.#registers.get(PMEN) & ProtectedMemoryEnable.EPM) !== 0;
    const now = enabled
      ? [this.#range(PLMBASE, PLMLIMIT, false), this.#range(PHMBASE, PHMLIMIT, true)].filter((range) => range !== null)
      : [];
    this.#ranges = now;
    this.#registers.change(PMEN, ProtectedMemoryEnable.PRS, enabled ? ProtectedMemoryEnable.PRS : 0);
    return now.length !== before.length || now.some(({ first, last }, i) => first !== before[i].first || last !== before[i].last);
  }

  /** null: the limit is below the base, which protects nothing. */
  #range(base: number, limit: number, wide: boolean): PfnRange | null {
    const first = this.#pfnAt(base, wide);
    const last = this.#pfnAt(limit, wide) + ALIGNMENT - 1;
    return last < first ? null : { first, last };
  }

  #pfnAt(offset: number, wide: boolean): number {
    const pfn = (this.#registers.get(offset) >>> 12) + (wide ? (this.#registers.get(offset + 4) >>> 0) * 2 ** 20 : 0);
    return pfn - (pfn % ALIGNMENT);
  }
}

/** Guest RAM without protected ranges. The same array for the same RAM, so that whoever keeps it sees when it is another. */
export class UnprotectedRam {
  readonly #memory: { readonly regions?: GuestMemory['regions'] };
  readonly #ranges: readonly PfnRange[];
  #whole: GuestMemory['regions'] | null = null;
  #regions: GuestMemory['regions'] = [];

  constructor(memory: { readonly regions?: GuestMemory['regions'] }, ranges: readonly PfnRange[]) {
    this.#memory = memory;
    this.#ranges = ranges;
  }

  get regions(): GuestMemory['regions'] {
    const { regions = NO_REGIONS } = this.#memory;
    if (regions === this.#whole) return this.#regions;
    this.#whole = regions;
    this.#regions = this.#ranges.reduce<GuestMemory['regions']>((left, range) => left.flatMap((region) => outside(region, range)), regions);
    return this.#regions;
  }
}

/** The pieces of a region below and above a range. */
function outside(region: GuestRegion, { first, last }: PfnRange): GuestRegion[] {
  const { gpa, buffer, offset = 0, bytes = buffer.byteLength - offset } = region;
  const start = Number(gpa);
  const end = start + bytes;
  const piece = (from: number, to: number): GuestRegion[] => {
    if (from >= to) return [];
    const skip = from - start;
    const { hostAddress, file } = region;
    return [
      {
        ...region,
        gpa: BigInt(from),
        offset: offset + skip,
        bytes: to - from,
        ...(hostAddress !== undefined && { hostAddress: hostAddress + BigInt(skip) }),
        ...(file !== undefined && { file: { fd: file.fd, offset: file.offset + BigInt(skip) } }),
      },
    ];
  };
  const below = first * PAGE_BYTES;
  const above = (last + 1) * PAGE_BYTES;
  return [...piece(start, Math.min(end, below)), ...piece(Math.max(start, above), end)];
}
