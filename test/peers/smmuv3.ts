import type { ArmTableConfig } from '../../src/pagetable/arm.ts';
import { bdf, ecamConfig, PciFunction } from './pci.ts';
import { type Address, Qtest } from './qtest.ts';
import { type DmaResult, Edu, IommuTestdev } from './testdev.ts';

/*
 * QEMU's SMMUv3 with two devices behind it, programmed as little as it takes to walk one table: Arm SMMUv3 Architecture
 * Specification (IHI 0070), 6.3 (registers), 5.2 (stream table entry), 5.4 (context descriptor), 4 (commands), 7.3 (events).
 */

/** Guest-physical memory of the virt machine: what lies where in its RAM. */
export const RAM_BASE = 0x4000_0000;
export const RAM_BYTES = 0x1000_0000;
export const TABLES_BASE = 0x4100_0000;
export const DATA_BASE = 0x4200_0000;
const STREAM_TABLE = 0x4001_0000;
/** The context descriptor; with both stages its address is the first's output too. */
export const CONTEXT = 0x4002_0000;
const COMMANDS = 0x4003_0000;
const EVENTS = 0x4004_0000;
const BOUNCE = 0x4005_0000;

const SMMU = 0x0905_0000;
const ECAM = 0x40_1000_0000n;
/** Registers (6.3). */
const IDR5 = 0x14;
const CR0 = 0x20;
const STRTAB_BASE = 0x80;
const STRTAB_BASE_CFG = 0x88;
const CMDQ_BASE = 0x90;
const CMDQ_PROD = 0x98;
const CMDQ_CONS = 0x9c;
const EVENTQ_BASE = 0xa0;
/** In page 1. */
const EVENTQ_PROD = 0x1_00a8;
const EVENTQ_CONS = 0x1_00ac;
/** SMMUEN, EVENTQEN, CMDQEN. */
const CR0_ENABLE = 0b1101;
/** Both queues have 256 entries, the stream table one entry for each function of bus 0. */
const QUEUE_LG2 = 8;
const STREAMS_LG2 = 8;

/** Opcodes (4.1.1). */
const CFGI_ALL = 0x04;
const CFGI_ALL_RANGE = 31;
const TLBI_NSNH_ALL = 0x30;

/** Events of the walk of one table (7.3). */
export const F_WALK_EABT = 0x0b;
export const F_TRANSLATION = 0x10;
export const F_ADDR_SIZE = 0x11;
export const F_ACCESS = 0x12;
export const F_PERMISSION = 0x13;

const OUTPUT_SIZES = [32, 36, 40, 42, 44, 48, 52];
const TG0 = { 12: 0, 14: 2, 16: 1 };
const TG1 = { 12: 2, 14: 1, 16: 3 };

const TESTDEV = bdf(0, 4, 0);
const EDU = bdf(0, 5, 0);

/**
 * A stream table entry as words (5.2) for stage 1, stage 2 or both: V, Config, S1ContextPtr; S2VMID, S2T0SZ, S2SL0, S2TG,
 * S2PS, S2AA64, S2AFFD, S2R, S2TTB.
 */
function streamTableEntry(first: ArmTableConfig | null, second: ArmTableConfig | null): number[] {
  const start = first === null ? [1 | (0b110 << 1)] : [1 | ((second === null ? 0b101 : 0b111) << 1) | CONTEXT];
  if (second === null) return start;
  const { granuleLg2, inputBits, outputBits, root } = second;
  const sl0 = (granuleLg2 === 12 ? 2 : 3) - (second.startLevel ?? 4 - Math.ceil((inputBits - granuleLg2) / (granuleLg2 - 3)));
  const size = OUTPUT_SIZES.indexOf(outputBits);
  const affd = second.accessFlag === 'ignore' ? 1 : 0;
  const s2 = (64 - inputBits) | (sl0 << 6) | (TG0[granuleLg2] << 14) | (size << 16) | (1 << 19) | (affd << 21) | (1 << 26);
  return [...start, 0, 0, 0, 1, s2, Number(root & 0xffff_ffffn), Number(root >> 32n)];
}

/** A context descriptor as words (5.4): TnSZ, TGn, EPDn, V; IPS, AFFD, TBI, AA64, R, A, ASID; TTBn with HADn. */
function contextDescriptor(config: ArmTableConfig): number[] {
  const { granuleLg2, inputBits, outputBits, root, upper = false } = config;
  const size = 64 - inputBits;
  const epd0 = 1 << 14;
  const epd1 = 1 << 30;
  const sizes = upper ? epd0 | (size << 16) | (TG1[granuleLg2] << 22) : epd1 | size | (TG0[granuleLg2] << 6);
  const affd = config.accessFlag === 'ignore' ? 1 << 3 : 0;
  // One TBI bit a table (VA bit 55 chooses), both set alike.
  const tbi = config.topByteIgnored ? 3 << 6 : 0;
  const mode = OUTPUT_SIZES.indexOf(outputBits) | affd | tbi | (1 << 9) | (1 << 13) | (1 << 14) | (1 << 16);
  const base = [Number(root & 0xffff_ffffn) | (config.hierarchyDisabled ? 2 : 0), Number(root >> 32n)];
  return [sizes | (1 << 31), mode, ...(upper ? [0, 0, ...base] : base)];
}

export interface PeerAnswer {
  /** Type of the event that the access recorded, or 0. */
  readonly event: number;
  /** The event is of the second stage. */
  readonly second: boolean;
  readonly landed: boolean;
}

export class Smmuv3 {
  readonly qemu: Qtest;
  /** What SMMU_IDR5.OAS says, in bits. */
  readonly outputBits: number;
  readonly #testdev: IommuTestdev;
  readonly #edu: Edu;
  #commands = 0;
  #events = 0;
  #entry: number[] = [];

  static async start(): Promise<Smmuv3> {
    const devices = ['-device', 'iommu-testdev,addr=4.0', '-device', 'edu,addr=5.0,dma_mask=0xffffffffffffffff'];
    const machine = ['-machine', 'virt,iommu=smmuv3,gic-version=3,its=off', '-cpu', 'max', '-m', `${RAM_BYTES / 0x10_0000}M`];
    const qemu = await Qtest.start('aarch64', [...machine, ...devices]);
    const testdev = new IommuTestdev(qemu, 0x1000_0000);
    const edu = new Edu(qemu, 0x1010_0000);
    await testdev.setUp(await PciFunction.find(ecamConfig(qemu, ECAM), TESTDEV));
    await edu.setUp(await PciFunction.find(ecamConfig(qemu, ECAM), EDU));
    qemu.writeq(SMMU + STRTAB_BASE, BigInt(STREAM_TABLE));
    qemu.writel(SMMU + STRTAB_BASE_CFG, STREAMS_LG2);
    qemu.writeq(SMMU + CMDQ_BASE, BigInt(COMMANDS | QUEUE_LG2));
    qemu.writeq(SMMU + EVENTQ_BASE, BigInt(EVENTS | QUEUE_LG2));
    qemu.writel(SMMU + CR0, CR0_ENABLE);
    return new Smmuv3(qemu, testdev, edu, OUTPUT_SIZES[(await qemu.readl(SMMU + IDR5)) & 7]);
  }

  private constructor(qemu: Qtest, testdev: IommuTestdev, edu: Edu, outputBits: number) {
    this.qemu = qemu;
    this.#testdev = testdev;
    this.#edu = edu;
    this.outputBits = outputBits;
  }

  dispose(): Promise<void> {
    return this.qemu.dispose();
  }

  #writeWords(address: number, words: readonly number[]): void {
    this.qemu.write(address, new Uint8Array(Uint32Array.from(words, (word) => word >>> 0).buffer));
  }

  #command(...words: number[]): void {
    this.#writeWords(COMMANDS + (this.#commands % 2 ** QUEUE_LG2) * 16, [...words, 0, 0, 0].slice(0, 4));
    this.#commands = (this.#commands + 1) % 2 ** (QUEUE_LG2 + 1);
    this.qemu.writel(SMMU + CMDQ_PROD, this.#commands);
  }

  #setEntry(entry: readonly number[]): void {
    const words = [...entry, ...new Array(16 - entry.length).fill(0)];
    for (const stream of [TESTDEV, EDU]) this.#writeWords(STREAM_TABLE + stream * 64, words);
    this.#command(CFGI_ALL, 0, CFGI_ALL_RANGE);
  }

  /** Puts one or both stages before both devices. @throws Error when QEMU did not take a command before. */
  async use(first: ArmTableConfig | null, second: ArmTableConfig | null): Promise<void> {
    const consumer = await this.qemu.readl(SMMU + CMDQ_CONS);
    if (consumer !== this.#commands) throw new Error(`SMMUv3: a command was refused, CMDQ_CONS is 0x${consumer.toString(16)}`);
    if (first !== null) this.#writeWords(CONTEXT, [...contextDescriptor(first), ...new Array(8).fill(0)]);
    this.#entry = streamTableEntry(first, second);
    this.#setEntry(this.#entry);
  }

  /** A device writes four bytes to `iova`; `expected`: where they should land. Nothing is cached from accesses before. */
  async write(iova: bigint, expected: Address): Promise<PeerAnswer> {
    this.#command(TLBI_NSNH_ALL);
    this.qemu.writel(expected, 0);
    const result: DmaResult = await this.#testdev.write(iova, expected);
    return { ...(await this.#event()), landed: result === 'done' };
  }

  /** A device reads eight bytes from `iova`; `expected`: where they should come from. */
  async read(iova: bigint, expected: Address): Promise<PeerAnswer> {
    const tag = iova ^ 0x5a5a_1234_a5a5_9876n;
    this.#command(TLBI_NSNH_ALL);
    this.qemu.writeq(expected, tag);
    await this.#edu.fetch(iova, 8);
    const event = await this.#event();
    if (event.event !== 0) return { ...event, landed: false };
    // What edu holds comes back past the tables: Config says bypass meanwhile.
    this.#setEntry([1 | (0b100 << 1)]);
    this.#edu.store(BOUNCE, 8);
    this.#setEntry(this.#entry);
    return { ...event, landed: (await this.qemu.readq(BOUNCE)) === BigInt.asUintN(64, tag) };
  }

  /** The oldest event since the last call; all of them are taken off the queue (7.3: type in bits 7:0, S2 in bit 103). */
  async #event(): Promise<{ event: number; second: boolean }> {
    const [cons, prod] = [this.#events, await this.qemu.readl(SMMU + EVENTQ_PROD)];
    if (prod === cons) return { event: 0, second: false };
    this.#events = prod;
    this.qemu.writel(SMMU + EVENTQ_CONS, prod);
    const at = EVENTS + (cons % 2 ** QUEUE_LG2) * 32;
    const [type, details] = await Promise.all([this.qemu.readl(at), this.qemu.readl(at + 12)]);
    return { event: type & 0xff, second: (details & 0x80) !== 0 };
  }
}
