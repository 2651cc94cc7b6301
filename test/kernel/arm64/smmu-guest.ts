import { errnoName } from '../../../src/host/errno.ts';
import type { IommufdDevice, StageOne, Vdevice } from '../../../src/host/iommufd/index.ts';
import { IommufdHost, smmuv3Stage1 } from '../../../src/host/iommufd/index.ts';
import type { Port } from '../../../src/host/port.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';

/*
 * What a guest of an SMMUv3 has in its memory (IHI 0070, chapter 5) and what it tells its IOMMU (chapter 4), on a kernel, real or simulated, that
 * nests it: one stream with one context descriptor and one table of 4 KiB pages, three levels of it made beforehand.
 */

/** The machine that the operations are done on. */
export interface SmmuMachine {
  readonly port: Port;
  /** Of the device. */
  readonly path: string;
  /** Tells the device to write `PATTERN` at an IOVA. False: it was refused. */
  write(device: IommufdDevice, iova: bigint): boolean;
  /** How long an event may take to come, in milliseconds. */
  readonly patience: number;
}

/** What the device writes. */
export const PATTERN = 0x1234_5678;

/** Guest RAM: pages from this guest-physical address on. */
const RAM = 0x4000_0000;
export const RAM_PAGES = 1024;
const RAM_END = RAM + RAM_PAGES * 4096;

/** Two pages of RAM that the device is led to. */
export const PAGE_A = 300;
const PAGE_B = 301;
export const gpaOfPage = (page: number) => RAM + page * 4096;

/** Where things lie in RAM. */
const DESCRIPTOR = 0;
const TABLES = [0x1000, 0x2000, 0x3000, 0x4000];
/** An entry of the third level, for a table that there is not: what IOVA 0x200000 goes through. */
const SECOND_TABLE = TABLES[2] + 8;

const TABLE = 3n;
/** Fields of a page descriptor (Arm DDI 0487, D8.3). */
export const PTE = { readOnly: 1n << 7n, accessed: 1n << 10n } as const;
const PTE_LEAF = (1n << 11n) | PTE.accessed | (3n << 8n) | (1n << 6n) | 3n;

/** Fields of a context descriptor's first word (5.4). */
export const CD = {
  T0SZ: 0x3fn,
  TG0_3: 3n << 6n,
  EPD0: 1n << 14n,
  ENDI: 1n << 15n,
  EPD1: 1n << 30n,
  V: 1n << 31n,
  IPS: 7n << 32n,
  AFFD: 1n << 35n,
  AA64: 1n << 41n,
  HD: 1n << 42n,
  HA: 1n << 43n,
  S: 1n << 44n,
  R: 1n << 45n,
  A: 1n << 46n,
} as const;
export const ASID = 7n;
const asid = (value: bigint) => value << 48n;
/** 48 bits in, 44 out, AArch64, terminating and recording faults. */
export const CD_GOOD = 16n | (4n << 32n) | CD.V | CD.AA64 | CD.A | CD.R | CD.EPD1 | asid(ASID);
export const withAsid = (cd0: bigint, value: bigint) => (cd0 & ~(0xffffn << 48n)) | asid(value);

/** STE (5.2): V, Config first stage, the descriptor's address. */
export const STE_S1 = 1n | (5n << 1n) | BigInt(RAM + DESCRIPTOR);
export const STREAM = 0x1234n;
const VEVENTQ_SMMUV3 = 1;
const VIOMMU_SMMUV3 = 1;
export const QUEUE_DEPTH = 4;

/** Commands (4.3, 4.4) as two words. */
export type SmmuCommand = readonly [bigint, bigint];
export const tlbiVa = (va: number, of = ASID): SmmuCommand => [0x12n | asid(of), BigInt(va) | 1n];
export const cfgiCd: SmmuCommand = [5n | (STREAM << 32n), 1n];
const cfgiCdAll: SmmuCommand = [6n | (STREAM << 32n), 0n];
const tlbiAll: SmmuCommand = [0x30n, 0n];

/** What a call came to: 0, its negative errno, or the errno's name of what it threw. */
export function outcome(run: () => unknown): string | number {
  try {
    const result = run();
    return typeof result === 'number' ? result : 'ok';
  } catch (error) {
    return /: (E[A-Z0-9]+)/.exec((error as Error).message)?.[1] ?? `threw ${(error as Error).message}`;
  }
}

export class SmmuGuest {
  readonly host: IommufdHost;
  readonly device: IommufdDevice;
  readonly space;
  readonly parent;
  readonly viommu;
  readonly #machine: SmmuMachine;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  readonly #hostPfn: number;
  readonly #events;
  readonly #commands;

  constructor(machine: SmmuMachine) {
    this.#machine = machine;
    this.host = new IommufdHost(machine.port);
    this.device = this.host.openDevice(machine.path);
    const ram = machine.port.allocate(RAM_PAGES * 4096);
    this.#view = new DataView(ram.buffer);
    this.#words = new Uint32Array(ram.buffer);
    this.#hostPfn = pfnOf(ram.address);
    this.space = this.host.createSpace();
    const made = this.mapRam() || this.space.attach(this.device);
    if (made < 0) throw new Error(`RAM and its space: ${errnoName(made)}`);
    this.parent = this.host.createPageTable(this.device, this.space, { nestParent: true });
    this.viommu = this.host.createViommu(this.device, this.parent, VIOMMU_SMMUV3);
    this.#events = this.viommu.createEventQueue(VEVENTQ_SMMUV3, 32, QUEUE_DEPTH);
    this.#commands = this.host.createSmmuInvalidations(this.viommu, 256);
    for (let level = 0; level < 3; level++) this.#set(TABLES[level], BigInt(RAM + TABLES[level + 1]) | TABLE);
    this.descriptor(CD_GOOD);
  }

  mapRam(): number {
    return this.space.map(pfnOf(BigInt(RAM)), this.#hostPfn, RAM_PAGES, READ_WRITE);
  }

  unmapRam(): number {
    return this.space.unmap(pfnOf(BigInt(RAM)), RAM_PAGES);
  }

  #set(at: number, value: bigint): void {
    this.#view.setBigUint64(at, value, true);
  }

  /** Writes the context descriptor. `table`: where in RAM its table lies. */
  descriptor(cd0: bigint, table = TABLES[0]): void {
    this.#set(DESCRIPTOR + 8, BigInt(RAM + table));
    this.#set(DESCRIPTOR + 24, 0xffn);
    this.#set(DESCRIPTOR, cd0);
  }

  /** Writes the entry of an IOVA below 2 MiB. */
  entry(iova: number, value: bigint): void {
    this.#set(TABLES[3] + (iova >>> 12) * 8, value);
  }

  /** An entry that leads to a page of RAM. */
  leaf(page: number): bigint {
    return BigInt(gpaOfPage(page)) | PTE_LEAF;
  }

  /** The page behind IOVA, to be `A` or `B`. */
  lead(iova: number, to: 'A' | 'B'): void {
    this.entry(iova, this.leaf(to === 'A' ? PAGE_A : PAGE_B));
  }

  /** An entry above the last level, which leads behind the end of RAM. */
  breakTable(): void {
    this.#set(SECOND_TABLE, BigInt(RAM_END) | TABLE);
  }

  /** Where a write by the device lands: A, B, elsewhere, or nowhere. */
  hit(iova: number | bigint): string {
    const [a, b] = [PAGE_A, PAGE_B].map((page) => page * 1024);
    this.#words[a] = this.#words[b] = 0;
    const done = this.#machine.write(this.device, BigInt(iova));
    const at = this.#words[a] === PATTERN ? 'A' : this.#words[b] === PATTERN ? 'B' : 'elsewhere';
    return done ? at : at === 'elsewhere' ? 'refused' : 'refused, and done';
  }

  /** The event records that come, as words in hexadecimal. */
  events(): string[] {
    const records: string[] = [];
    while (this.#events.wait(this.#machine.patience)) {
      const read = this.#events.read();
      if (read.length === 0) break;
      for (const { lost, data } of read) {
        const words = data === null ? [] : [...new BigUint64Array(data.slice().buffer)].map((word) => word.toString(16));
        records.push([...(lost > 0 ? [`lost ${lost}`] : []), ...words].join('/'));
      }
    }
    return records;
  }

  /** Gives commands to the kernel: its answer, and how many it counted. */
  invalidate(...commands: readonly SmmuCommand[]): readonly [number, number] {
    const half = (word: bigint, shift: bigint) => Number((word >> shift) & 0xffff_ffffn) | 0;
    for (const [word0, word1] of commands) this.#commands.addCommand(half(word0, 0n), half(word0, 32n), half(word1, 0n), half(word1, 32n));
    const result = this.#commands.flush();
    return [result, this.#commands.done];
  }

  /** The hardware forgets all that it knows of the stream. */
  forgetAll(): readonly [number, number] {
    return this.invalidate(tlbiAll, cfgiCdAll);
  }

  /** @throws HostError */
  stage(ste0: bigint, ste1 = 0n): StageOne {
    return this.host.createStageOne(this.device, this.viommu, smmuv3Stage1(ste0, ste1));
  }

  addStream(stream = STREAM): Vdevice {
    return this.viommu.addDevice(this.device, stream);
  }
}
