/** 2 MiB of each function's aperture are registered. */
export const PAGES = 512;
export const SEGMENT_PAGES = 256;
export const SEGMENTS = PAGES / SEGMENT_PAGES;
/** What devices are given: pages of RAM from here on, and those before the tables. */
export const DATA = 0x400;
export const START_PAGES = 0x100;
export const INVALID = 0x400n;
export const PROTECTED = 0x200n;
/** A bit for programs: an entry that maps page 0 is none of zeros. */
const USED = 1n;
const FORMAT_CONTROL = 0x400n;
const TABLES = 0x10_0000;
const TABLE_BYTES = 0x4000;
const PAGE_TABLES = 5 * TABLE_BYTES;
const FUNCTION_BYTES = 0x2_0000;

export const hex = (value: number | bigint) => `0x${value.toString(16)}`;

export interface Memory {
  readonly addr: string;
  readonly hex: string;
}

/** What a made-up guest keeps of one function: its state, its tables, and how much of them the lines have shown. */
export class GuestFunction {
  readonly fid: number;
  /** Of its anchor: 0 segment, 1 region third, 2 second, 3 first. */
  readonly designation: number;
  state: 'standby' | 'disabled' | 'enabled' | 'blocked' | 'error' = 'disabled';
  isRegistered = false;
  /** IOTA.T is 0. */
  isBypassed = false;
  hasInterrupts = false;
  /** What pages mean, as page table entries; frames are taken apart. And what QEMU's IOTLB has of them. */
  readonly table: bigint[] = new Array(PAGES).fill(INVALID);
  readonly iotlb = new Map<number, bigint>();
  /** The region third entry maps 2 GiB, from the start of RAM on; null: it leads to a segment table. */
  #large: bigint | null = null;
  /** By segment: the frame's entry, or null: a page table. */
  readonly frames: (bigint | null)[] = new Array(SEGMENTS).fill(null);
  /** Entries by address, as lines have shown them; and page table entries that lines have shown. */
  readonly #entries = new Map<number, bigint>();

  constructor(fid: number, designation: number) {
    this.fid = fid;
    this.designation = designation;
  }

  /** Segment tables reach 2 GiB. */
  get aperture(): bigint {
    return this.designation === 0 ? 0x1000_0000n : 0x1_0000_0000n;
  }
  get pal(): bigint {
    return this.aperture + BigInt(PAGES) * 4096n - 1n;
  }
  at(page: number): bigint {
    return this.aperture + BigInt(page) * 4096n;
  }
  get base(): number {
    return 0x2_0000 + this.fid - 1;
  }
  get isEnabled(): boolean {
    return this.state === 'enabled' || this.state === 'blocked' || this.state === 'error';
  }
  get handle(): number {
    return this.isEnabled ? this.base + 0x8000_0000 : this.base;
  }

  #tableAt(level: number): number {
    return TABLES + this.fid * FUNCTION_BYTES + level * TABLE_BYTES;
  }
  get iota(): bigint {
    return this.isBypassed ? 0n : BigInt(this.#tableAt(this.designation)) | BigInt(this.designation << 2) | 0x800n;
  }

  /** A MiB becomes one frame at this page, or a page table without anything again. */
  frame(segment: number, to: number | null, flags = 0n): void {
    this.frames[segment] = to === null ? null : (BigInt(to) << 12n) | FORMAT_CONTROL | flags;
    for (let i = 0; i < SEGMENT_PAGES; i++)
      this.table[segment * SEGMENT_PAGES + i] = to === null ? INVALID : (BigInt(to + i) << 12n) | flags | USED;
  }
  /** The same of 2 GiB; null: a segment table without anything. Segment tables stand under no region. */
  frameLarge(flags: bigint | null): void {
    this.#large = flags === null ? null : (1n << 2n) | FORMAT_CONTROL | flags;
    for (let segment = 0; segment < SEGMENTS; segment++) {
      this.frame(segment, flags === null ? null : segment * SEGMENT_PAGES, flags ?? 0n);
      this.frames[segment] = null;
    }
  }
  get isLarge(): boolean {
    return this.#large !== null;
  }
  segmentsOf(first: number, pages: number): number[] {
    return this.frames.flatMap((_, segment) =>
      first < (segment + 1) * SEGMENT_PAGES && first + pages > segment * SEGMENT_PAGES ? [segment] : [],
    );
  }

  /** Pages that QEMU translates, that the table has, and that lead to no tables. */
  get translated(): number[] {
    const isData = (page: number) => page < START_PAGES || page >= DATA;
    return [...this.iotlb].flatMap(([page, value]) => (this.table[page] === value && isData(Number(value >> 12n)) ? [page] : []));
  }
  /** Pages that neither has. */
  get empty(): number[] {
    return this.table.flatMap((value, page) => (value === INVALID && !this.iotlb.has(page) && this.isShown(page) ? [page] : []));
  }

  forget(): void {
    this.isRegistered = false;
    this.isBypassed = false;
    this.hasInterrupts = false;
    this.iotlb.clear();
  }

  /** Whether the lines have shown a page's entry as the guest has it. */
  isShown(page: number): boolean {
    const segment = Math.floor(page / SEGMENT_PAGES);
    const entry = this.frames[segment];
    if (this.#large !== null) return this.#entries.get(this.#regionEntry(1)) === this.#large;
    if (entry !== null) return this.#entries.get(this.#segmentEntry(segment)) === entry;
    return this.#entries.get(this.#pageEntry(page)) === this.table[page];
  }
  #regionEntry(level: number): number {
    return this.#tableAt(level) + (level === 1 ? 8 * Number(this.aperture >> 31n) : 0);
  }
  #segmentEntry(segment: number): number {
    return this.#tableAt(0) + 8 * (Number((this.aperture >> 20n) & 0x7ffn) + segment);
  }
  #pageEntry(page: number): number {
    return this.#tableAt(0) + PAGE_TABLES + 8 * page;
  }

  /** Entries that no line has shown yet, in runs. */
  show(): Memory[] {
    const entries = new Map<number, bigint>();
    for (let level = this.designation; level > 0; level--) {
      const pointer = BigInt(this.#tableAt(level - 1)) | BigInt((level << 2) | 3);
      entries.set(this.#regionEntry(level), level === 1 ? (this.#large ?? pointer) : pointer);
    }
    this.frames.forEach((frame, segment) => {
      if (this.#large !== null) return;
      entries.set(this.#segmentEntry(segment), frame ?? BigInt(this.#pageEntry(segment * SEGMENT_PAGES)));
      if (frame !== null) return;
      for (let i = segment * SEGMENT_PAGES; i < (segment + 1) * SEGMENT_PAGES; i++) entries.set(this.#pageEntry(i), this.table[i]!);
    });
    const lines: { at: number; text: string }[] = [];
    for (const at of [...entries.keys()].sort((a, b) => a - b)) {
      const value = entries.get(at)!;
      if (this.#entries.get(at) === value) continue;
      this.#entries.set(at, value);
      const text = value.toString(16).padStart(16, '0');
      const last = lines.at(-1);
      if (last !== undefined && last.at + last.text.length / 2 === at) last.text += text;
      else lines.push({ at, text });
    }
    return lines.map(({ at, text }) => ({ addr: hex(at), hex: text }));
  }
}
