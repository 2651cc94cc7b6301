import { bit, bits, put } from '../../fields.ts';

/** The capability block of the IOMMU's PCI function, 3.2: byte offsets from its start. */
export const CAPABILITY_BYTES = 0x18;
const BASE_LOW = 0x04;
const BASE_HIGH = 0x08;

/** 3.2.1 and 3.2.5. */
const HEADER = {
  ID: bits(7, 0),
  NEXT: bits(15, 8),
  TYPE: bits(18, 16),
  REVISION: bits(23, 19),
  IOTLB_SUP: bit(24),
  NP_CACHE: bit(26),
  EFR_SUP: bit(27),
  CAP_EXT: bit(28),
} as const;
const MISC = { GVA_SIZE: bits(7, 5), PA_SIZE: bits(14, 8), VA_SIZE: bits(21, 15) } as const;

/** Secure device, of type IOMMU. */
const SECURE_DEVICE = 0x0f;
const TYPE_IOMMU = 3;
const REVISION = 1;
const GVA_57_BITS = 4;
const ENABLE = 1;
const ADDRESS_MASK = -(1 << 14);

export interface PciCapabilityOptions {
  readonly npCache: boolean;
  /** Configuration offset of the next capability; 0: none. */
  readonly next: number;
  /** Where the register page is; the guest finds it enabled, and cannot move it then. 0: the guest chooses. */
  readonly base: bigint;
}

/** What the machine's PCI shows at the offset that IVRS names. */
export class PciCapability {
  readonly #words = new Int32Array(CAPABILITY_BYTES / 4);

  constructor({ npCache, next, base }: PciCapabilityOptions) {
    const words = this.#words;
    put(words, HEADER.ID, SECURE_DEVICE);
    put(words, HEADER.NEXT, next);
    put(words, HEADER.TYPE, TYPE_IOMMU);
    put(words, HEADER.REVISION, REVISION);
    put(words, HEADER.IOTLB_SUP, 1);
    put(words, HEADER.NP_CACHE, Number(npCache));
    put(words, HEADER.EFR_SUP, 1);
    put(words, HEADER.CAP_EXT, 1);
    if (base !== 0n) {
      words[BASE_LOW / 4] = Number(BigInt.asIntN(32, base)) | ENABLE;
      words[BASE_HIGH / 4] = Number(BigInt.asIntN(32, base >> 32n));
    }
    const misc = words.subarray(4, 5);
    put(misc, MISC.GVA_SIZE, GVA_57_BITS);
    put(misc, MISC.PA_SIZE, 52);
    put(misc, MISC.VA_SIZE, 64);
  }

  /** The 32-bit word at a multiple of 4 in the block. */
  read(offset: number): number {
    return this.#words[offset >> 2] >>> 0;
  }

  /** Only the base address can be written, until it is enabled (3.2.2). */
  write(offset: number, value: number): void {
    if ((this.#words[BASE_LOW / 4] & ENABLE) !== 0) return;
    if (offset === BASE_LOW) this.#words[1] = value & (ADDRESS_MASK | ENABLE);
    if (offset === BASE_HIGH) this.#words[2] = value;
  }

  /** Where the register page is, or null: not enabled. */
  get base(): bigint | null {
    const [, low, high] = this.#words;
    return (low & ENABLE) === 0 ? null : (BigInt(high >>> 0) << 32n) | BigInt((low & ADDRESS_MASK) >>> 0);
  }
}
