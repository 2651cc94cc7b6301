import { RAM_BYTES } from './table-programs.ts';
import type { Side } from './vtd-machine.ts';
import type { Found } from './vtd-pointers.ts';

/** One step on both sides, and what led to it. */
export interface Observation {
  readonly ours: Side;
  readonly theirs: Side;
  readonly what: string;
  /** The descriptor, of steps that submit one. */
  readonly words: readonly bigint[];
  /** Legacy: the context entry; else context entry, directory entry, and the first three words of the PASID entry. */
  readonly entries: readonly bigint[];
  /** What the unit finds, before the step. */
  readonly found: Found;
  /** The address, of steps that access one. */
  readonly iova: bigint | null;
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

/** Types of PASID table entries (9.6) that QEMU has not, by what its options give it. */
const LACKED: Readonly<Record<string, readonly bigint[]>> = { 'second stage': [1n, 3n], 'first stage': [2n, 3n] };

/** Types of descriptors (6.5.2) of units with device-TLBs or page requests. */
const NEEDS_DEVICES: readonly bigint[] = [3n, 8n, 9n];

/** Bits of table entries (9.7, 9.8). */
const SNP = 1n << 11n;
const W = 2n;
const USER_AND_WRITABLE = 6n;

/** AW (9.6), and what table 30 says of first-stage addresses beyond their width (SGN.1). */
const WIDTH_48 = 2n;
const NOT_CANONICAL = 0x80;

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
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'legacy' && (found.pasidEntry & 1n) === 0n && reasonOf(ours) === 0x59 && reasonOf(theirs) === 0x5b,
  },
  {
    section: '7.1.1',
    what: 'QEMU does not see FPD of a PASID table entry that it refuses',
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'legacy' &&
      (found.pasidEntry & 2n) !== 0n &&
      !ours.done &&
      ours.fault === null &&
      [0x59, 0x5a, 0x5b].includes(reasonOf(theirs)),
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
    section: '6.5.2, table 26',
    what: 'QEMU does invalidations of device-TLBs, and page group responses, where it says that it has neither',
    explains: ({ words, ours, theirs }) =>
      words.length > 0 && NEEDS_DEVICES.includes(words[0] & 0xe0fn) && ours.status === 0x10n && theirs.status === 0n,
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
    explains: ({ theirs, found, mode }) => LACKED[mode]?.includes((found.pasidEntry >> 6n) & 7n) === true && reasonOf(theirs) === 0x5b,
  },
  {
    section: '9.8, SNP',
    what: 'QEMU has no snoop control, so SNP is reserved',
    explains: ({ theirs, found, mode }) =>
      mode !== 'first stage' && reasonOf(theirs) === 0xc && found.walked.some((entry) => (entry & SNP) !== 0n),
  },
  {
    section: '9.8, order of checks',
    what: 'an entry that grants no writing, and has a reserved bit or leads where no memory is: QEMU gives the lack of permission, ours the bit, or the table that cannot be read',
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'first stage' &&
      reasonOf(theirs) === 5 &&
      (mode === 'legacy' ? [0x7, 0xc] : [0x78, 0x7a]).includes(reasonOf(ours)) &&
      found.walked.some((entry) => (entry & W) === 0n),
  },
  {
    section: 'Table 30, SCT.3, and 9.4',
    what: 'QEMU does not look at DTE and PRE of context entries, which are reserved without device-TLBs and page requests',
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'legacy' && (found.context & 0x14n) !== 0n && reasonOf(ours) === 0x42 && reasonOf(theirs) !== 0x42,
  },
  {
    section: '3.6.1',
    what: 'QEMU checks rights at each first-stage entry, before those below are looked at',
    explains: ({ ours, theirs, found, mode }) =>
      mode === 'first stage' &&
      found.walked.some((entry) => (entry & 1n) !== 0n && (entry & USER_AND_WRITABLE) !== USER_AND_WRITABLE) &&
      [0x81, 0x85].includes(reasonOf(theirs)) &&
      [0x70, 0x71, 0x72, 0x81].includes(reasonOf(ours)),
  },
  {
    section: '9.6, AW',
    what: 'QEMU takes the width of first-stage addresses from AW, which is for second-stage tables',
    explains: ({ ours, theirs, found, mode }) =>
      mode === 'first stage' &&
      ((found.pasidEntry >> 2n) & 7n) !== WIDTH_48 &&
      (reasonOf(ours) === NOT_CANONICAL) !== (reasonOf(theirs) === NOT_CANONICAL),
  },
  {
    section: 'Table 30, LGN.1.3, SGN.4.2',
    what: 'QEMU passes an address above HAW through',
    explains: ({ ours, theirs, iova, found, mode }) =>
      iova !== null &&
      iova >> 48n !== 0n &&
      passesThrough(mode, found) &&
      reasonOf(ours) === (mode === 'legacy' ? 4 : 0x83) &&
      theirs.fault === null,
  },
  {
    section: 'Table 30, SPD.3',
    what: 'QEMU looks at no reserved bits of PASID directory entries',
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'legacy' && (found.directory & 0xffff_0000_0000_0ffcn) !== 0n && reasonOf(ours) === 0x52 && reasonOf(theirs) !== 0x52,
  },
  {
    section: 'Table 30, SPT.3, and 9.6',
    what: 'QEMU looks at few reserved bits of PASID table entries',
    explains: ({ ours, theirs, found, mode }) =>
      mode !== 'legacy' && (found.pasidEntry & 0xffff_0000_0000_0c20n) !== 0n && reasonOf(ours) === 0x5a && reasonOf(theirs) !== 0x5a,
  },
];

/** TT 10b (9.3), PGTT 100b (9.6). */
function passesThrough(mode: string, { context, pasidEntry }: Found): boolean {
  return mode === 'legacy' ? ((context >> 2n) & 3n) === 2n : ((pasidEntry >> 6n) & 7n) === 4n;
}

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
