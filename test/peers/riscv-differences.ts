import { field } from '../pagetable/oracle.ts';

/** One access on both sides, and the entries that our walks read, root first; of a nested walk the first stage's, then the output's second stage. */
export interface Comparison {
  readonly entries: readonly bigint[];
  readonly write: boolean;
  readonly secondStage: boolean;
  /** Causes: 0 is success. */
  readonly ours: number;
  readonly theirs: number;
  /** Pages of the range that ours answers with. */
  readonly range: bigint;
  /** Of translations: the pages that ours and QEMU say that the address goes to. */
  readonly pages: { readonly ours: bigint; readonly theirs: bigint };
}

/** Where QEMU 11.1's riscv-iommu is not what the specifications ask for, or the specification leaves the choice. */
export interface Difference {
  readonly section: string;
  readonly what: string;
  explains(comparison: Comparison): boolean;
}

const isLeaf = (entry: bigint) => (entry & 0b1010n) !== 0n;
const any = ({ entries }: Comparison, wrong: (entry: bigint) => boolean) => entries.some(wrong);

const accessFaults: ReadonlySet<number> = new Set([5, 7]);
const causeGivenWrongly: ReadonlySet<number> = new Set([13, 15, 21, 23]);

export const DIFFERENCES: readonly Difference[] = [
  {
    section: 'IOMMU, "Translation-response": PPN is what the vpn asked for translates to, or has a larger range coded in it with S',
    what: 'QEMU answers with the first page of a large page, S 0',
    explains: ({ ours, theirs, pages }) =>
      ours === 0 && theirs === 0 && [9n, 18n, 27n, 36n].some((bits) => pages.theirs === (pages.ours >> bits) << bits),
  },
  {
    section: 'Privileged Architecture, Svnapot: "pte.N=1" entries',
    what: 'QEMU ignores N: it takes the PPN of a NAPOT entry as it stands, and N where it is reserved',
    explains: (comparison) => any(comparison, (entry) => field(entry, 63, 63) === 1n),
  },
  {
    section: 'Privileged Architecture, Svnapot: "implicit reads of NAPOT page table entries may create" translations of the whole range',
    what: 'ours keeps a NAPOT translation, which stands for neighbouring entries that are not part of it',
    explains: ({ ours, range }) => ours === 0 && range === 16n,
  },
  {
    section: 'Privileged Architecture, 11.4.1: bits reserved for future standard use; Svpbmt where capabilities.Svpbmt is 0',
    what: 'QEMU ignores bits 62:54 of an entry, which become part of its PPN or nothing',
    explains: (comparison) => comparison.ours !== 0 && any(comparison, (entry) => field(entry, 62, 54) !== 0n),
  },
  {
    section: 'IOMMU extensions, Svrsw60t59b: bits 60 and 59 belong to software',
    what: 'QEMU offers Svrsw60t59b, but bits 60:59 reach its PPN',
    explains: (comparison) => any(comparison, (entry) => field(entry, 60, 59) !== 0n),
  },
  {
    section: 'Privileged Architecture, 11.4.1: "For non-leaf PTEs, the D, A, and U bits are reserved"',
    what: 'QEMU ignores D, A and U of a pointer',
    explains: (comparison) => comparison.ours !== 0 && any(comparison, (entry) => !isLeaf(entry) && (entry & 0b1101_0000n) !== 0n),
  },
  {
    section: 'IOMMU, "Process to translate an IOVA": U is checked, requests without supervisor privilege and second stages included',
    what: 'QEMU does not look at U, nor at SUM',
    explains: (comparison) => comparison.ours !== 0 && any(comparison, (entry) => isLeaf(entry) && (entry & 0b1_0000n) === 0n),
  },
  {
    section: 'IOMMU, "Translation control": without SADE or GADE an access faults "if the A bit is 0"',
    what: 'QEMU checks A of reads only',
    explains: (comparison) =>
      comparison.ours !== 0 && comparison.write && any(comparison, (entry) => isLeaf(entry) && (entry & 0x40n) === 0n),
  },
  {
    section: 'Privileged Architecture, 11.3.2, step 2: a read that violates a PMA check is an access fault',
    what: "QEMU's virt machine answers reads of its empty PCI windows with zeros, which are entries that are not valid",
    explains: ({ ours, theirs }) => accessFaults.has(ours) && causeGivenWrongly.has(theirs),
  },
  {
    section: 'IOMMU, "Fault record CAUSE field encodings": 12, 13, 15 of the first stage, 20, 21, 23 of the second',
    what: 'QEMU attributes faults by the pass that it is in when it gives up: a first stage reached through a second can fault as either',
    explains: ({ secondStage, ours, theirs }) => secondStage && causeGivenWrongly.has(ours) && causeGivenWrongly.has(theirs),
  },
];
