import { EDU, type PeerIommu, TESTDEV } from './q35.ts';
import type { Qtest } from './qtest.ts';
import { STRUCTURES } from './table-programs.ts';

/*
 * QEMU's VT-d unit, programmed as little as it takes to walk one table: Intel VT-d 4.1, 9.1 to 9.6 (root, context and PASID
 * tables), 6.5.2 (invalidation queue), 11.4 (registers).
 */

const VTD = 0xfed9_0000;
/** Registers (11.4). */
const GCMD = 0x18;
const RTADDR = 0x20;
const FSTS = 0x34;
const IQT = 0x88;
const IQA = 0x90;
const FRCD = 0x220;
const GCMD_TE = 2 ** 31;
const GCMD_SRTP = 2 ** 30;
const GCMD_QIE = 2 ** 26;
const FSTS_IQE = 1 << 4;
const FSTS_CLEAR = 0x7f;
const RTADDR_SCALABLE = 1n << 10n;

/** Descriptors (6.5.2): global invalidation of the context cache, the PASID cache, the IOTLB; 16 bytes, in scalable mode 32. */
const INVALIDATE_CONTEXTS = 0x11n;
const INVALIDATE_PASIDS = 0x37n;
const INVALIDATE_IOTLB = 0x12n;
const IQA_WIDE = 1n << 11n;
const QUEUE_BYTES = 4096;

const ROOT = STRUCTURES;
const CONTEXT = STRUCTURES + 0x1000;
const PASID_DIRECTORY = STRUCTURES + 0x2000;
const PASID_TABLE = STRUCTURES + 0x3000;
const QUEUE = STRUCTURES + 0x4000;
const DOMAIN = 1n;

export class VtdPeer implements PeerIommu {
  readonly #qemu: Qtest;
  readonly #scalable: boolean;
  #tail = 0;

  constructor(qemu: Qtest, scalable: boolean) {
    this.#qemu = qemu;
    this.#scalable = scalable;
    qemu.fill(STRUCTURES, 0x5000, 0);
    qemu.writeq(ROOT, BigInt(CONTEXT) | 1n);
    qemu.writeq(VTD + IQA, BigInt(QUEUE) | (scalable ? IQA_WIDE : 0n));
    qemu.writel(VTD + GCMD, GCMD_QIE);
    qemu.writeq(VTD + RTADDR, BigInt(ROOT) | (scalable ? RTADDR_SCALABLE : 0n));
    qemu.writel(VTD + GCMD, GCMD_QIE | GCMD_SRTP);
  }

  /** Puts a second-stage table of 3 to 5 levels before both devices (9.3, legacy context entry). */
  useSecondStage(root: number, levels: number): void {
    for (const device of [TESTDEV, EDU]) {
      this.#qemu.writeq(CONTEXT + device * 16, BigInt(root) | 1n);
      this.#qemu.writeq(CONTEXT + device * 16 + 8, (DOMAIN << 8n) | BigInt(levels - 2));
    }
    this.enable(true);
  }

  /** Puts a first-stage table of 4 levels before both devices (9.4 to 9.6): PASID 0, which requests without one use. */
  useFirstStage(root: number, writeProtect: boolean): void {
    for (const device of [TESTDEV, EDU]) this.#qemu.writeq(CONTEXT + device * 32, BigInt(PASID_DIRECTORY) | 1n);
    this.#qemu.writeq(PASID_DIRECTORY, BigInt(PASID_TABLE) | 1n);
    this.#qemu.writeq(PASID_TABLE + 8, DOMAIN);
    this.#qemu.writeq(PASID_TABLE + 16, BigInt(root) | (writeProtect ? 1n << 4n : 0n));
    // First-stage only (PGTT 1), present. AW is for second-stage tables (9.6), but QEMU checks first-stage input against it: 48 bits.
    this.#qemu.writeq(PASID_TABLE, (1n << 6n) | (2n << 2n) | 1n);
    this.enable(true);
  }

  enable(on: boolean): void {
    this.#qemu.writel(VTD + GCMD, on ? GCMD_QIE + GCMD_TE : GCMD_QIE);
    this.invalidate();
  }

  invalidate(): void {
    const kinds = this.#scalable ? [INVALIDATE_CONTEXTS, INVALIDATE_PASIDS, INVALIDATE_IOTLB] : [INVALIDATE_CONTEXTS, INVALIDATE_IOTLB];
    for (const kind of kinds) {
      this.#qemu.writeq(QUEUE + this.#tail, kind);
      this.#tail = (this.#tail + (this.#scalable ? 32 : 16)) % QUEUE_BYTES;
    }
    this.#qemu.writel(VTD + IQT, this.#tail);
  }

  /** @throws Error when QEMU did not take an invalidation before. */
  async fault(): Promise<number> {
    const [high, status] = await Promise.all([this.#qemu.readq(VTD + FRCD + 8), this.#qemu.readl(VTD + FSTS)]);
    if ((status & FSTS_IQE) !== 0) throw new Error('VT-d: QEMU refused an invalidation descriptor');
    if (high >> 63n === 0n) return 0;
    this.#qemu.writel(VTD + FRCD + 12, 2 ** 31);
    this.#qemu.writel(VTD + FSTS, FSTS_CLEAR);
    return Number((high >> 32n) & 0xffn);
  }
}
