import { READ, WRITE } from '../memory/access.ts';
import { requireObject } from '../memory/arguments.ts';
import { MEM_FAULT } from '../memory/guest-memory.ts';
import {
  OUT_LENGTH,
  OUT_PERMISSION,
  OUT_TYPE,
  type PageTable,
  type TableMemory,
  type TableReader,
  type TableVisitor,
} from './page-table.ts';
import { Runs } from './runs.ts';

/*
 * Two-stage translation, for all architectures that nest: the first stage's output, and the address of each of its table
 * entries, are guest-physical addresses that the second stage translates (RISC-V Privileged Architecture, "Two-Stage
 * Address Translation"; VT-d 4.1 3.8; Arm DDI 0487 D8.2; AMD I/O Virtualization 2.2.3). A fault belongs to one of the
 * stages, and one of the second stage to one kind of access: architectures report both.
 */

/** OUT_LO and OUT_HI, here because the compiler folds a module's own constants only. */
const LO = 0;
const HI = 1;

/** A stage as this file needs it. */
export type WalkingStage = Pick<PageTable, 'walk' | 'out'>;
export type EnumeratingStage = Pick<PageTable, 'walk' | 'out' | 'enumerate'>;

/** Who ended a walk: the first stage's own tables; */
export const BY_FIRST_STAGE = 0;
/** the second stage, asked for a table entry of the first to be read, */
export const BY_TABLE_READ = 1;
/** or to be updated; */
export const BY_TABLE_WRITE = 2;
/** the second stage, asked for the address that the first stage gave. */
export const BY_OUTPUT = 3;
export type FaultOrigin = 0 | 1 | 2 | 3;

/** Which wishes the implicit accesses to first-stage tables carry into the second stage. */
export interface ImplicitAccess {
  readonly read: number;
  readonly write: number;
}
export const IMPLICIT_USER_ACCESS: ImplicitAccess = { read: READ, write: WRITE };

/**
 * Memory as a first stage sees it: behind the second. A refusal leaves its story in `origin`, `code`, `gpaHi` and `gpaLo`.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const second = new VtdSecondStageTable(memory, { root: 8, levels: 4, allocator });
 * second.map(0x99, 0x77, 1, READ_WRITE); // 1
 * const behind = new SecondStageMemory(memory, second, IMPLICIT_USER_ACCESS);
 * memory.store32(0, 0x77010, 7);
 * behind.load64(0, 0x99010); // 0
 * behind.load64(0, 0x98010); // -4096: the second stage has no such page
 */
export class SecondStageMemory implements TableMemory {
  /** BY_FIRST_STAGE: the second stage refused nothing since `origin` was last set so. */
  origin: FaultOrigin = BY_FIRST_STAGE;
  /** The second stage's fault code, and the guest-physical address that it refused. */
  code = 0;
  gpaHi = 0;
  gpaLo = 0;
  readonly #memory: TableMemory;
  readonly #second: WalkingStage;
  readonly #out: Int32Array;
  readonly #read: number = 0;
  readonly #write: number = 0;

  constructor(memory: TableMemory, second: WalkingStage, implicit: ImplicitAccess) {
    requireObject('SecondStageMemory', 'memory', memory, 'memory', ['load64', 'store64']);
    requireObject('SecondStageMemory', 'second', second, 'stage', ['walk']);
    requireObject('SecondStageMemory', 'implicit', implicit);
    this.#memory = memory;
    this.#second = second;
    this.#out = second.out;
    this.#read = implicit.read;
    this.#write = implicit.write;
  }

  get word(): Int32Array {
    return this.#memory.word;
  }

  load64(hi: number, lo: number): number {
    const code = this.#second.walk(hi, lo, this.#read);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_READ, code);
    return this.#memory.load64(this.#out[HI], this.#out[LO]);
  }
  load64BE(hi: number, lo: number): number {
    const code = this.#second.walk(hi, lo, this.#read);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_READ, code);
    return this.#memory.load64BE(this.#out[HI], this.#out[LO]);
  }
  load32(hi: number, lo: number): number {
    const code = this.#second.walk(hi, lo, this.#read);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_READ, code);
    return this.#memory.load32(this.#out[HI], this.#out[LO]);
  }
  load32BE(hi: number, lo: number): number {
    const code = this.#second.walk(hi, lo, this.#read);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_READ, code);
    return this.#memory.load32BE(this.#out[HI], this.#out[LO]);
  }
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const code = this.#second.walk(hi, lo, this.#write);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_WRITE, code);
    return this.#memory.store64(this.#out[HI], this.#out[LO], valueHi, valueLo);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const code = this.#second.walk(hi, lo, this.#write);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_WRITE, code);
    return this.#memory.store64BE(this.#out[HI], this.#out[LO], valueHi, valueLo);
  }
  store32(hi: number, lo: number, value: number): number {
    const code = this.#second.walk(hi, lo, this.#write);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_WRITE, code);
    return this.#memory.store32(this.#out[HI], this.#out[LO], value);
  }
  store32BE(hi: number, lo: number, value: number): number {
    const code = this.#second.walk(hi, lo, this.#write);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_WRITE, code);
    return this.#memory.store32BE(this.#out[HI], this.#out[LO], value);
  }
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    const code = this.#second.walk(hi, lo, this.#write);
    if (code < 0) return this.#refuse(hi, lo, BY_TABLE_WRITE, code);
    return this.#memory.compareExchange64(this.#out[HI], this.#out[LO], oldHi, oldLo, newHi, newLo);
  }

  /** Byte address of what a guest-physical one is behind the second stage, -1: it cannot be read. */
  locate(address: number): number {
    const code = this.#second.walk((address / 0x1_0000_0000) | 0, address | 0, this.#read);
    return code < 0 ? -1 : (this.#out[HI] >>> 0) * 0x1_0000_0000 + (this.#out[LO] >>> 0);
  }

  /** Tells of pieces of a first stage's tables by where they are in memory. */
  located(told: TableReader | null): TableReader | null {
    if (told === null) return null;
    return (address, bytes, entries, first, last) => {
      const at = this.locate(address);
      if (at >= 0) told(at, bytes, entries, first, last);
    };
  }

  #refuse(hi: number, lo: number, origin: FaultOrigin, code: number): number {
    this.origin = origin;
    this.code = code;
    this.gpaHi = hi;
    this.gpaLo = lo;
    return MEM_FAULT;
  }
}

export interface TwoStageConfig {
  readonly memory: TableMemory;
  readonly second: WalkingStage;
  /** Makes the first stage over the memory that it must read its tables through. */
  first(memory: TableMemory): WalkingStage;
  /** Default: reads and writes of a user. */
  readonly implicit?: ImplicitAccess;
}

/**
 * A first stage over a second. After a fault, `origin` says whose it was, and `gpaHi`, `gpaLo` which address the second stage refused.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const second = new VtdSecondStageTable(memory, { root: 8, levels: 4, allocator });
 * second.map(0, 0, 128, READ_WRITE); // 128: guest pages are where they are, but for one
 * second.map(0x99, 0x77, 1, READ_WRITE); // 1
 * const first = new X86Table(memory, { root: 9, levels: 4, allocator });
 * first.map(0x40, 0x99, 1, READ_WRITE); // 1
 * const both = new TwoStage({ memory, second, first: (behind) => new X86Table(behind, { root: 9, levels: 4 }) });
 * both.walk(0, 0x40123, READ); // 12
 * both.out[0]; // 0x77123
 */
export class TwoStage implements WalkingStage {
  /** The address behind both stages, the permissions that both grant, the smaller page, and the first stage's memory type. */
  readonly out = new Int32Array(OUT_LENGTH);
  readonly first: WalkingStage;
  readonly second: WalkingStage;
  origin: FaultOrigin = BY_FIRST_STAGE;
  gpaHi = 0;
  gpaLo = 0;
  readonly #tables: SecondStageMemory;

  constructor(config: TwoStageConfig) {
    requireObject('TwoStage', 'config', config);
    if (typeof config.first !== 'function') throw new TypeError('TwoStage: first is no function');
    requireObject('TwoStage', 'second', config.second, 'stage', ['walk']);
    this.second = config.second;
    this.#tables = new SecondStageMemory(config.memory, config.second, config.implicit ?? IMPLICIT_USER_ACCESS);
    this.first = config.first(this.#tables);
  }

  /** The first stage alone: lg2 of its page, the guest-physical address in `first.out`; or a fault code and its `origin`. */
  walkFirst(hi: number, lo: number, access: number): number {
    const tables = this.#tables;
    tables.origin = BY_FIRST_STAGE;
    const lg2 = this.first.walk(hi, lo, access);
    if (lg2 >= 0) return lg2;
    this.origin = tables.origin;
    if (tables.origin === BY_FIRST_STAGE) return lg2;
    this.gpaHi = tables.gpaHi;
    this.gpaLo = tables.gpaLo;
    return tables.code;
  }

  /** Both stages: lg2 of the smaller page or a fault code, of the stage that `origin` names. */
  walk(hi: number, lo: number, access: number): number {
    const firstLg2 = this.walkFirst(hi, lo, access);
    if (firstLg2 < 0) return firstLg2;
    const gpa = this.first.out;
    const secondLg2 = this.second.walk(gpa[HI], gpa[LO], access);
    if (secondLg2 < 0) {
      this.origin = BY_OUTPUT;
      this.gpaHi = gpa[HI];
      this.gpaLo = gpa[LO];
      return secondLg2;
    }
    const spa = this.second.out;
    const out = this.out;
    out[LO] = spa[LO];
    out[HI] = spa[HI];
    out[OUT_PERMISSION] = gpa[OUT_PERMISSION] & spa[OUT_PERMISSION];
    out[OUT_TYPE] = gpa[OUT_TYPE];
    return firstLg2 < secondLg2 ? firstLg2 : secondLg2;
  }
}

/**
 * Counts what is loaded, so that an enumeration knows what it has spent.
 *
 * @example
 * const counted = new CountedMemory(GuestMemory.ofBytes(4096));
 * counted.load64(0, 8);
 * counted.loads; // 1
 */
export class CountedMemory implements TableMemory {
  loads = 0;
  readonly #memory: TableMemory;

  constructor(memory: TableMemory) {
    requireObject('CountedMemory', 'memory', memory, 'memory', ['load64', 'store64']);
    this.#memory = memory;
  }

  get word(): Int32Array {
    return this.#memory.word;
  }

  load64(hi: number, lo: number): number {
    this.loads++;
    return this.#memory.load64(hi, lo);
  }
  load64BE(hi: number, lo: number): number {
    this.loads++;
    return this.#memory.load64BE(hi, lo);
  }
  load32(hi: number, lo: number): number {
    this.loads++;
    return this.#memory.load32(hi, lo);
  }
  load32BE(hi: number, lo: number): number {
    this.loads++;
    return this.#memory.load32BE(hi, lo);
  }
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#memory.store64(hi, lo, valueHi, valueLo);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#memory.store64BE(hi, lo, valueHi, valueLo);
  }
  store32(hi: number, lo: number, value: number): number {
    return this.#memory.store32(hi, lo, value);
  }
  store32BE(hi: number, lo: number, value: number): number {
    return this.#memory.store32BE(hi, lo, value);
  }
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    return this.#memory.compareExchange64(hi, lo, oldHi, oldLo, newHi, newLo);
  }
}

/** Says which pages of 4 KiB are loaded from, by the byte address of each, before they are. */
class NotedMemory extends CountedMemory {
  readonly #told: (page: number) => void;
  #page = -1;

  constructor(memory: TableMemory, told: (page: number) => void) {
    super(memory);
    this.#told = told;
  }

  override load64(hi: number, lo: number): number {
    this.#note(hi, lo);
    return super.load64(hi, lo);
  }
  override load64BE(hi: number, lo: number): number {
    this.#note(hi, lo);
    return super.load64BE(hi, lo);
  }
  override load32(hi: number, lo: number): number {
    this.#note(hi, lo);
    return super.load32(hi, lo);
  }
  override load32BE(hi: number, lo: number): number {
    this.#note(hi, lo);
    return super.load32BE(hi, lo);
  }

  #note(hi: number, lo: number): void {
    const page = (hi >>> 0) * 0x1_0000_0000 + ((lo & ~4095) >>> 0);
    if (page === this.#page) return;
    this.#page = page;
    this.#told(page);
  }
}

export interface TwoStageTables {
  readonly memory: TableMemory;
  first(memory: SecondStageMemory): EnumeratingStage;
  second(memory: TableMemory): EnumeratingStage;
  /** Told of the pages (byte addresses) that hold tables of the second stage, before they are read: a store there can change any translation. */
  readonly secondRead?: ((page: number) => void) | null;
}

/** A second stage gets at least as many entries as it has levels, or it would never get on. */
const SECOND_LEVELS_AT_MOST = 8;

/**
 * PageTable.enumerate through both stages: runs from input to second-stage output with the permissions that both grant.
 * Spends at most `budget` loads on the second stage's tables and `budget` entries of the first, whose loads cost a walk each.
 */
export function enumerateTwoStage(tables: TwoStageTables, first: number, last: number, visit: TableVisitor, budget: number): number {
  const memory = tables.secondRead ? new NotedMemory(tables.memory, tables.secondRead) : new CountedMemory(tables.memory);
  const second = tables.second(memory);
  const upper = tables.first(new SecondStageMemory(memory, second, IMPLICIT_USER_ACCESS));
  const runs = new Runs(visit);
  let stopped = -1;
  let ended = false;
  const reached = upper.enumerate(
    first,
    last,
    (iova, gpa, pages, granted) => {
      const left = Math.max(budget - memory.loads, SECOND_LEVELS_AT_MOST);
      const done = second.enumerate(
        gpa,
        gpa + pages - 1,
        (at, output, count, permission) => {
          if ((granted & permission) !== 0) ended = !runs.add(iova + (at - gpa), output, count, granted & permission);
          return !ended;
        },
        left,
      );
      if (!ended && done < gpa + pages) stopped = iova + (done - gpa);
      return !ended && stopped < 0;
    },
    budget,
  );
  if (ended || !runs.flush()) return runs.visitedEnd;
  return stopped < 0 ? reached : stopped;
}
