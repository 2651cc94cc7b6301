import { GuestMemory, hiOf, loOf } from '../../src/memory/index.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { bdf, ecamConfig, PciFunction } from './pci.ts';
import { Qtest } from './qtest.ts';
import { type DmaResult, IommuTestdev } from './testdev.ts';

/** RAM of QEMU's riscv64 virt machine. */
export const RAM = 0x8000_0000;
export const RAM_BYTES = 0x0400_0000;
const ECAM = 0x3000_0000;
const BAR_IOMMU = 0x4000_0000;
const BAR_TESTDEV = 0x4100_0000;
/** Requester ID of iommu-testdev. */
export const TESTDEV = bdf(0, 4, 0);

/** Offsets of registers ("Register layout"). */
export const Reg = {
  capabilities: 0,
  ddtp: 16,
  cqb: 24,
  cqh: 32,
  cqt: 36,
  fqb: 40,
  fqh: 48,
  fqt: 52,
  cqcsr: 72,
  fqcsr: 76,
  ipsr: 84,
  trIova: 600,
  trControl: 608,
  trResponse: 616,
} as const;

/** Pages of RAM for the structures that all programs use. */
export const DDT = 0x8000_1000;
const CQ = 0x8000_2000;
export const FQ = 0x8000_3000;

/** What a debug translation came to ("Translation-response"). */
export interface DebugAnswer {
  readonly fault: boolean;
  /** Of the page, or of the lowest page of a larger range. */
  readonly response: bigint;
}

/** QEMU's riscv-iommu-pci and ours, with the same capabilities, driven alike: every store and register write goes to both. */
export class RiscvPeers {
  readonly qemu: Qtest;
  readonly ours: RiscvIommu;
  readonly memory: GuestMemory;
  readonly testdev: IommuTestdev;
  #tail = 0;

  static async start(): Promise<RiscvPeers> {
    const machine = ['-machine', 'virt,aia=aplic-imsic', '-m', `${RAM_BYTES >>> 20}M`, '-bios', 'none'];
    const qemu = await Qtest.start('riscv64', [...machine, '-device', 'riscv-iommu-pci,addr=1.0', '-device', 'iommu-testdev,addr=4.0']);
    const config = ecamConfig(qemu, ECAM);
    const iommu = await PciFunction.find(config, bdf(0, 1, 0));
    await iommu.mapBar(0, BAR_IOMMU);
    await iommu.enable();
    const testdev = new IommuTestdev(qemu, BAR_TESTDEV);
    await testdev.setUp(await PciFunction.find(config, TESTDEV));
    return new RiscvPeers(qemu, testdev, await qemu.readq(BAR_IOMMU + Reg.capabilities));
  }

  private constructor(qemu: Qtest, testdev: IommuTestdev, capabilities: bigint) {
    this.qemu = qemu;
    this.testdev = testdev;
    this.memory = new GuestMemory([{ gpa: BigInt(RAM), buffer: new SharedArrayBuffer(RAM_BYTES) }]);
    this.ours = new RiscvIommu({ capabilities, gxlWritable: true }, { memory: this.memory });
  }

  store(address: number, value: bigint): void {
    this.qemu.writeq(address, value);
    this.memory.store64(hiOf(BigInt(address)), loOf(BigInt(address)), hiOf(value), loOf(value));
  }

  /** Of ours; what the walkers change, `theirs` and `load` show. */
  load(address: number): bigint {
    this.memory.load64(0, address | 0);
    return (BigInt(this.memory.word[1] >>> 0) << 32n) | BigInt(this.memory.word[0] >>> 0);
  }
  theirs(address: number): Promise<bigint> {
    return this.qemu.readq(address);
  }

  write(offset: number, bytes: 4 | 8, value: bigint): void {
    if (bytes === 4) this.qemu.writel(BAR_IOMMU + offset, Number(value & 0xffff_ffffn));
    else this.qemu.writeq(BAR_IOMMU + offset, value);
    this.ours.write(offset, bytes, value);
  }

  /** A register of both: ours, theirs. */
  async read(offset: number, bytes: 4 | 8): Promise<readonly [bigint, bigint]> {
    const theirs = bytes === 4 ? BigInt(await this.qemu.readl(BAR_IOMMU + offset)) : await this.qemu.readq(BAR_IOMMU + offset);
    return [this.ours.read(offset, bytes), theirs];
  }

  /** Directory of one level, queues on. */
  async setUp(): Promise<void> {
    this.write(Reg.ddtp, 8, 0n);
    for (const csr of [Reg.cqcsr, Reg.fqcsr]) this.write(csr, 4, 0n);
    this.write(Reg.cqb, 8, (BigInt(CQ / 4096) << 10n) | 7n);
    this.write(Reg.fqb, 8, (BigInt(FQ / 4096) << 10n) | 6n);
    for (const csr of [Reg.cqcsr, Reg.fqcsr]) this.write(csr, 4, 1n);
    this.write(Reg.ddtp, 8, (BigInt(DDT / 4096) << 10n) | 2n);
    this.#tail = 0;
  }

  /** Appends commands; QEMU processes them in a thread of its own, so its head is waited for. */
  async command(...commands: readonly (readonly [bigint, bigint])[]): Promise<void> {
    for (const [low, high] of commands) {
      this.store(CQ + this.#tail * 16, low);
      this.store(CQ + this.#tail * 16 + 8, high);
      this.#tail = (this.#tail + 1) % 256;
    }
    this.write(Reg.cqt, 4, BigInt(this.#tail));
    for (let i = 0; i < 1000; i++) {
      const [, head] = await this.read(Reg.cqh, 4);
      const [, csr] = await this.read(Reg.cqcsr, 4);
      if (Number(head) === this.#tail || (csr & 0x700n) !== 0n) return;
    }
    throw new Error('QEMU does not process its commands');
  }

  /** Forgets contexts and translations: IODIR.INVAL_DDT, IOTINVAL.VMA and GVMA of all. */
  forget(): Promise<void> {
    return this.command([3n, 0n], [1n, 0n], [1n | (1n << 7n), 0n], [2n, 0n]);
  }

  /** A debug translation on both. `control` without Go. */
  async debug(device: number, iova: bigint, control: bigint): Promise<readonly [DebugAnswer, DebugAnswer]> {
    this.write(Reg.trIova, 8, iova);
    this.write(Reg.trControl, 8, (BigInt(device) << 40n) | control | 1n);
    const [ours, theirs] = await this.read(Reg.trResponse, 8);
    return [answerOf(ours), answerOf(theirs)];
  }

  /** Puts both where they can go on alike: the fault queue empty, the command queue empty and without errors. */
  async recover(): Promise<void> {
    const [ours, theirs] = await this.read(Reg.fqt, 4);
    if (ours !== theirs || Number(ours) > 100) {
      this.write(Reg.fqcsr, 4, 0n);
      this.write(Reg.fqcsr, 4, 0x301n);
      this.write(Reg.fqh, 4, 0n);
    } else {
      this.write(Reg.fqh, 4, ours);
    }
    const [, csr] = await this.read(Reg.cqcsr, 4);
    const [ourCsr] = await this.read(Reg.cqcsr, 4);
    if (((csr | ourCsr) & 0xf00n) === 0n) return;
    this.write(Reg.cqcsr, 4, 0n);
    this.write(Reg.cqt, 4, 0n);
    this.write(Reg.cqcsr, 4, 0xf01n);
    this.#tail = 0;
  }

  dma(iova: bigint, expected: bigint): Promise<DmaResult> {
    return this.testdev.write(iova, expected);
  }

  dispose(): Promise<void> {
    return this.qemu.dispose();
  }
}

function answerOf(response: bigint): DebugAnswer {
  return { fault: (response & 1n) === 1n, response };
}

/** First page and pages of the range that a response tells. */
export function rangeOf(response: bigint): { readonly page: bigint; readonly pages: bigint } {
  const ppn = (response >> 10n) & (2n ** 44n - 1n);
  if (((response >> 9n) & 1n) === 0n) return { page: ppn, pages: 1n };
  const pages = (ppn ^ (ppn + 1n)) + 1n;
  return { page: ppn & ~(pages - 1n), pages };
}
