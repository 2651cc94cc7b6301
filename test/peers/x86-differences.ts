import { READ, WRITE } from '../../src/memory/index.ts';
import {
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  FAULT_TABLE_ACCESS,
  faultKind,
} from '../../src/pagetable/page-table.ts';
import type { Rules } from '../pagetable/oracle.ts';
import type { PeerAnswer } from './q35.ts';

/** One access on both sides. */
export interface Comparison {
  readonly rules: Rules;
  readonly levels: number;
  readonly input: bigint;
  readonly access: number;
  /** Our fault code, or 0. */
  readonly code: number;
  /** Where ours led, if to the data area. */
  readonly output: bigint | null;
  /** The entries that our walk read, root first, as ours and as QEMU's access left them. */
  readonly entries: readonly bigint[];
  readonly theirs: readonly bigint[];
  readonly peer: PeerAnswer;
}

/** Where QEMU 11.1 is not what the specification asks for. */
export interface Difference {
  readonly section: string;
  readonly what: string;
  explains(comparison: Comparison): boolean;
}

interface Judgement {
  /** Fault reasons that the specification gives for our fault. */
  reasons(comparison: Comparison): readonly number[];
  readonly differences: readonly Difference[];
}

/** VT-d 4.1, 7.1.3, legacy mode. */
export const VTD_SECOND_STAGE: Judgement = {
  reasons: ({ code, access }) => {
    const refused = access === WRITE ? 0x5 : 0x6;
    switch (faultKind(code)) {
      case FAULT_NOT_PRESENT:
      case FAULT_PERMISSION:
        return [refused];
      case FAULT_INPUT_SIZE:
        return [0x4];
      case FAULT_TABLE_ACCESS:
        return [0x7];
      case FAULT_RESERVED:
        return [0xc];
      default:
        return [];
    }
  },
  differences: [
    {
      section: 'VT-d 4.1, 3.7.1, access rights: what all entries of the path grant',
      what: 'rights are checked when the leaf is known; QEMU checks each entry first, and reports that instead of what is wrong with it or below it',
      explains: ({ access, entries, peer }) =>
        peer.fault === (access === WRITE ? 0x5 : 0x6) && entries.some((entry) => (entry & BigInt(access)) === 0n),
    },
  ],
};

/** VT-d 4.1, 7.1.3, scalable mode. */
export const VTD_FIRST_STAGE: Judgement = {
  reasons: ({ code, access }) => {
    switch (faultKind(code)) {
      case FAULT_NOT_PRESENT:
        return [0x71];
      case FAULT_PERMISSION:
        return access === READ ? [0x81] : [0x81, 0x85];
      case FAULT_INPUT_SIZE:
        return [0x80];
      case FAULT_TABLE_ACCESS:
        return [0x70, 0x73];
      case FAULT_RESERVED:
        return [0x72];
      default:
        return [];
    }
  },
  differences: [
    {
      section: 'VT-d 4.1, 3.6.1, access rights: what all entries of the path grant',
      what: 'rights are checked when the leaf is known; QEMU checks each entry first, stops there, and marks nothing as accessed below it',
      explains: ({ access, entries, peer }) =>
        (peer.fault === 0x81 && entries.some((entry) => (entry & 4n) === 0n)) ||
        (peer.fault === 0x85 && access === WRITE && entries.some((entry) => (entry & 2n) === 0n)),
    },
    {
      section: 'VT-d 4.1, 3.6.2, accessed and dirty flags',
      what: 'the leaf gets the accessed bit, and on a write the dirty bit; QEMU sets nothing where one of the two is set',
      explains: ({ output, entries, theirs, peer }) =>
        peer.fault === 0 &&
        (output === null || peer.landed) &&
        entries.every((entry, i) => entry === theirs[i] || (i === entries.length - 1 && onlyMarked(entry, theirs[i]))),
    },
  ],
};

/** Whether an entry lacks one of A and D, having the other. */
function onlyMarked(entry: bigint, theirs: bigint): boolean {
  const marks = 0x60n;
  return (entry & marks) === marks && (theirs & marks) !== 0n && (entry & ~marks) === (theirs & ~marks);
}

/** AMD IOMMU 48882, 2.5: IO_PAGE_FAULT, PAGE_TAB_HARDWARE_ERROR. */
export const AMD_V1: Judgement = {
  reasons: ({ code }) => (faultKind(code) === FAULT_TABLE_ACCESS ? [4] : [2]),
  differences: [
    {
      section: '48882, 2.2.3, "IR and IW of all levels are ANDed"',
      what: 'QEMU asks the leaf only, and takes the entry at which nothing is left for a leaf',
      explains: ({ access, entries, code }) => code < 0 && (rightsOf(entries) & access) === 0,
    },
    {
      section: '48882, 2.2.3, tables 14 to 17: reserved bits, levels and sizes that a level cannot have',
      what: 'QEMU checks none of them',
      explains: ({ code }) => code < 0 && faultKind(code) === FAULT_RESERVED,
    },
    {
      section: '48882, 2.2.3, "Next Level" may leave levels out',
      what: 'QEMU goes down level by level, whatever the entry says',
      explains: ({ levels, entries }) => skips(levels, entries),
    },
  ],
};

/** READ and WRITE as IR and IW of all entries grant them. */
function rightsOf(entries: readonly bigint[]): number {
  return entries.map((entry) => Number((entry >> 61n) & 3n)).reduce((all, one) => all & one, READ | WRITE);
}

/** Whether an entry of the path names a table more than one level below its own. */
function skips(levels: number, entries: readonly bigint[]): boolean {
  let level = levels;
  return entries.some((entry) => {
    const next = Number((entry >> 9n) & 7n);
    const skipped = next > 0 && next < level - 1;
    level = next;
    return skipped;
  });
}
