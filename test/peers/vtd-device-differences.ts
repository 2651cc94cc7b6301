import { RAM_BYTES } from './table-programs.ts';
import type { Side } from './vtd-machine.ts';

/** One step on both sides, and what led to it. */
export interface Observation {
  readonly ours: Side;
  readonly theirs: Side;
  readonly what: string;
  /** The descriptor, of steps that submit one. */
  readonly words: readonly bigint[];
  /** Legacy: the context entry; else context entry, directory entry, and the first three words of the PASID entry. */
  readonly entries: readonly bigint[];
  /** The data is where ours says; true where ours says nothing. */
  readonly landed: boolean;
  readonly mode: string;
}

/** Where QEMU 11.1's intel-iommu is not what the specification asks for, or the specification leaves the choice. */
interface Difference {
  readonly section: string;
  readonly what: string;
  explains(observation: Observation): boolean;
}

/** Reason of a record. */
function reasonOf({ fault }: Side): number {
  return fault === null ? 0 : Number.parseInt(fault.slice('reason 0x'.length), 16);
}

/** Legacy mode's reasons, which QEMU gives in scalable mode too, and scalable mode's own. */
const LEGACY_REASONS: Readonly<Record<number, readonly number[]>> = {
  1: [0x39],
  2: [0x41],
  3: [0x7b, 0x43],
  4: [0x84],
  5: [0x79, 0x85],
  7: [0x78],
  11: [0x42],
  12: [0x7a],
  14: [0x87],
};

const DIFFERENCES: readonly Difference[] = [
  {
    section: 'Table 30, SRT, SCT, SSS, SGN.5 to SGN.8',
    what: 'QEMU gives the reasons of legacy mode for context entries and second stages of scalable mode',
    explains: ({ ours, theirs, mode }) =>
      mode !== 'legacy' && !ours.done && !theirs.done && (LEGACY_REASONS[reasonOf(theirs)]?.includes(reasonOf(ours)) ?? false),
  },
  {
    section: 'Table 30, SPT.2',
    what: 'QEMU looks at the type of a PASID table entry that is not present',
    explains: ({ ours, theirs, mode }) => mode !== 'legacy' && reasonOf(ours) === 0x59 && reasonOf(theirs) === 0x5b,
  },
  {
    section: '7.1.1',
    what: 'QEMU does not see FPD of a PASID table entry that it refuses',
    explains: ({ ours, theirs, mode }) =>
      mode !== 'legacy' && !ours.done && ours.fault === null && [0x59, 0x5a, 0x5b].includes(reasonOf(theirs)),
  },
  {
    section: '6.5.2.9',
    what: 'a status address where no memory is: undefined; ours writes nowhere, QEMU stops the queue',
    explains: ({ ours, theirs, words }) =>
      words.length > 1 && (words[0] & 0xe2fn) === 0x25n && !inRam(words[1]) && ours.status === 0n && theirs.status === 0x10n,
  },
  {
    section: '6.5.2.9',
    what: 'QEMU refuses a wait descriptor with neither SW nor IF, which only orders',
    explains: ({ ours, theirs, words }) =>
      words.length > 0 && (words[0] & 0xe3fn) === 0x05n && ours.status === 0n && theirs.status === 0x10n,
  },
  {
    section: '11.4.2, MAMV',
    what: 'QEMU refuses address masks above MAMV in PASID-based IOTLB invalidations too, which must support any',
    explains: ({ words, ours, theirs }) =>
      words.length > 1 && (words[0] & 0xe0fn) === 0x06n && (words[1] & 0x3fn) > 18n && ours.status === 0n && theirs.status === 0x10n,
  },
  {
    section: '9.6, PGTT',
    what: 'QEMU has no nested translation, and one stage only',
    explains: ({ theirs, entries, mode }) =>
      mode !== 'legacy' && [1n, 2n, 3n].includes((entries[2] >> 6n) & 7n) && reasonOf(theirs) === 0x5b,
  },
  {
    section: '9.8, SNP and order of checks',
    what: 'QEMU has no snoop control, so SNP is reserved; an entry with a reserved bit that grants too little gets the other reason',
    explains: ({ ours, theirs, mode }) =>
      mode === 'second stage' &&
      ((reasonOf(theirs) === 0xc && [0, 0x78, 0x79, 0x85].includes(reasonOf(ours))) || (reasonOf(theirs) === 5 && reasonOf(ours) === 0x7a)),
  },
  {
    section: '3.6.1',
    what: 'QEMU checks rights at each first-stage entry, before those below are looked at',
    explains: ({ ours, theirs, mode }) =>
      mode === 'first stage' && [0x81, 0x85].includes(reasonOf(theirs)) && [0x70, 0x71, 0x72, 0x81].includes(reasonOf(ours)),
  },
  {
    section: 'Table 30, LGN.1.3, SGN.4.2',
    what: 'QEMU passes an address above HAW through',
    explains: ({ ours, theirs }) => (reasonOf(ours) === 4 || reasonOf(ours) === 0x83) && theirs.fault === null,
  },
  {
    section: 'Table 30, SPD.3',
    what: 'QEMU looks at no reserved bits of PASID directory entries',
    explains: ({ ours, theirs, mode }) => mode !== 'legacy' && reasonOf(ours) === 0x52 && reasonOf(theirs) !== 0x52,
  },
  {
    section: 'Table 30, SPT.3, and 9.6',
    what: 'QEMU looks at few reserved bits of PASID table entries',
    explains: ({ ours, theirs, mode }) => mode !== 'legacy' && reasonOf(ours) === 0x5a && reasonOf(theirs) !== 0x5a,
  },
];

/** An address of 32 bits in the RAM of the machine. */
function inRam(address: bigint): boolean {
  return address < BigInt(RAM_BYTES);
}

/** `same`, the difference that explains the step, or null. */
export function vtdDifference(observation: Observation): string | null {
  const { ours, theirs, landed } = observation;
  const same = ours.done === theirs.done && ours.fault === theirs.fault && ours.status === theirs.status && ours.head === theirs.head;
  if (same && landed) return 'same';
  const found = DIFFERENCES.find((difference) => difference.explains(observation));
  return found === undefined ? null : `${found.section}: ${found.what}`;
}
