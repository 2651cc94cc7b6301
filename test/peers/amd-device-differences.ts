import { isDeepStrictEqual } from 'node:util';
import { field } from '../pagetable/oracle.ts';
import type { Interrupt, Side } from './amd-machine.ts';

/** One step on both sides, and what led to it. */
export interface Observation {
  readonly ours: Side;
  readonly theirs: Side;
  readonly what: string;
  /** The command, of steps that submit one. */
  readonly words: readonly bigint[];
  readonly entry: readonly bigint[];
  /** The data is where ours says; true where ours says nothing. */
  readonly landed: boolean;
  /** Of steps that write. */
  readonly iova: bigint;
  /** The entries of the host table on the way, root first. */
  readonly path: readonly bigint[];
}

/** A message on both sides. */
export interface Message {
  readonly ours: Interrupt;
  readonly theirs: Interrupt;
  /** Third doubleword of the device table entry. */
  readonly entry: bigint;
  /** The interrupt table entry. */
  readonly words: readonly bigint[];
  readonly address: number;
  readonly data: number;
}

/** Where QEMU 11.1's amd-iommu is not what the specification asks for. */
interface Difference<T> {
  readonly section: string;
  readonly what: string;
  explains(observation: T): boolean;
}

/** Codes of events (2.5). */
const ILLEGAL_ENTRY = 1n;
const PAGE_FAULT = 2n;
const PAGE_TABLE_HARDWARE = 4n;
const ILLEGAL_COMMAND = 5n;
const COMMAND_HARDWARE = 6n;
/** Of page faults. */
const RESERVED = 1n << 55n;
const PRESENT = 1n;
const IR = 1n << 61n;
const IW = 1n << 62n;
const COMMAND_BYTES = 16n;
const RING_BYTES = 4096n;

function codes({ events }: Side): string {
  return events.map(([low]) => low >> 60n).join();
}
function only({ events }: Side, code: bigint): boolean {
  return events.length === 1 && events[0][0] >> 60n === code;
}
function isAll({ events }: Side, code: bigint): boolean {
  return events.length > 0 && events.every(([low]) => low >> 60n === code);
}
/** Ours refuses by page fault, which the entry may keep from being logged (SE, SA). */
function pageFault({ ours, entry }: Observation): boolean {
  return only(ours, PAGE_FAULT) || (!ours.done && ours.events.length === 0 && ((entry[1] >> 33n) & 3n) !== 0n);
}
function opcode({ words }: Observation): bigint {
  return words.length > 0 ? words[0] >> 60n : -1n;
}
/** All but the events is the same. */
function sameButEvents({ ours, theirs, landed }: Observation): boolean {
  return ours.done === theirs.done && ours.status === theirs.status && ours.head === theirs.head && ours.stored === theirs.stored && landed;
}
/** QEMU's event, all of it, of that code. */
function isTheirs([low, high]: readonly [bigint, bigint], code: bigint, flags: bigint): boolean {
  return high === 0n && low >> 48n === ((code << 12n) | flags);
}
/** Ours stopped at a command that QEMU did, and left behind. */
function stopped({ ours, theirs }: Observation): boolean {
  return theirs.head === (ours.head + COMMAND_BYTES) % RING_BYTES && ours.status === (theirs.status & ~0x10n & ~4n) + (ours.status & 4n);
}
/** Mode of a device table entry, Next Level of others. */
function levelOf(word: bigint): bigint {
  return (word >> 9n) & 7n;
}
/** An entry that leads to another table. */
function isPointer(word: bigint): boolean {
  return (word & PRESENT) !== 0n && levelOf(word) !== 0n && levelOf(word) !== 7n;
}
/** A pointer to a level that is not lower, or past levels of which the address has bits. */
function skips({ entry, path, iova }: Observation): boolean {
  let level = levelOf(entry[0]);
  return path.some((word) => {
    if (!isPointer(word)) return false;
    const next = levelOf(word);
    const between = next < level ? (iova >> (12n + 9n * next)) & ((1n << (9n * (level - 1n - next))) - 1n) : 0n;
    const skipped = next >= level || between !== 0n;
    level = next;
    return skipped;
  });
}
/** Reserved bits of device table entries (2.2.2.1) that QEMU looks at. */
const QEMU_RESERVED = [(1n << 63n) | 0x7cn, 0n, 3n << 52n, (0x3fn << 48n) | 0x7fffn];
/** A valid device table entry with a reserved level, or with one of the reserved bits that QEMU does not look at. */
function isIllegal([low, second, third]: readonly bigint[]): boolean {
  return (low & 1n) !== 0n && (levelOf(low) === 7n || (second & (1n << 42n)) !== 0n || (third & (1n << 59n)) !== 0n);
}

const DEVICE: readonly Difference<Observation>[] = [
  {
    section: '2.5.2 to 2.5.6',
    what: 'QEMU logs neither address nor domain, and of page faults the same flags each time',
    explains: (step) =>
      sameButEvents(step) &&
      codes(step.ours) === codes(step.theirs) &&
      step.theirs.events.every((event) => {
        const code = event[0] >> 60n;
        return isTheirs(event, code, code === PAGE_FAULT ? 0xan : 0n);
      }),
  },
  {
    section: '2.5.3',
    what: 'QEMU logs nothing where TV is 0, or where the last entry is not there or grants too little',
    explains: (step) => sameButEvents(step) && !step.ours.done && only(step.ours, PAGE_FAULT) && step.theirs.events.length === 0,
  },
  {
    section: '2.2.2.1, SA',
    what: 'QEMU logs page faults although they are suppressed',
    explains: (step) =>
      sameButEvents(step) && step.ours.events.length === 0 && only(step.theirs, PAGE_FAULT) && ((step.entry[1] >> 33n) & 3n) !== 0n,
  },
  {
    section: '2.5.5',
    what: 'QEMU logs a page fault beside the entry that it could not read',
    explains: (step) => sameButEvents(step) && only(step.ours, PAGE_TABLE_HARDWARE) && codes(step.theirs) === '4,2',
  },
  {
    section: '2.5.3, 2.5.5',
    what: 'a pointer to where no memory is, without IW or below an entry at which no right is left: QEMU gives the lack of a right, ours the entry that it could not read',
    explains: (step) => {
      const last = step.path.at(-1) ?? 0n;
      const left = step.path.reduce((rights, word) => rights & word, IR | IW);
      const isOutside = isPointer(last) && ((last & IW) === 0n || left === 0n);
      return isOutside && sameButEvents(step) && only(step.ours, PAGE_TABLE_HARDWARE) && only(step.theirs, PAGE_FAULT);
    },
  },
  {
    section: '2.2.3, Next Level',
    what: 'QEMU looks at no address bits of levels that are left out, and goes to levels that are not lower',
    explains: (step) => pageFault(step) && skips(step),
  },
  {
    section: '2.2.3, IR and IW of all levels are ANDed',
    what: 'QEMU asks the last entry only, and with Mode 0 none',
    explains: (step) => pageFault(step) && step.theirs.done && [step.entry[0], ...step.path].some((word) => (word & IW) === 0n),
  },
  {
    section: '2.2.3, IR and IW of all levels are ANDed',
    what: 'QEMU takes the entry at which no right is left for the last one',
    explains: ({ ours, theirs, entry, path }) =>
      !ours.done && theirs.events.length === 0 && [entry[0], ...path].reduce((all, word) => all & word, IR | IW) === 0n,
  },
  {
    section: '2.2.2.1, IR and IW',
    what: 'QEMU reads the table first, and finds that it cannot, where ours finds that the device entry does not grant it',
    explains: ({ ours, theirs, entry }) => only(ours, PAGE_FAULT) && (entry[0] & IW) === 0n && codes(theirs) === '4,2',
  },
  {
    section: '2.2.3, Mode',
    what: 'QEMU looks at no address bits above the top level',
    explains: (step) => pageFault(step) && step.iova >> (12n + 9n * ((step.entry[0] >> 9n) & 7n)) !== 0n,
  },
  {
    section: '2.2.3, tables 14 to 17',
    what: 'QEMU looks at no reserved bits of table entries, and takes sizes that a level cannot have',
    explains: ({ ours }) => only(ours, PAGE_FAULT) && (ours.events[0][0] & RESERVED) !== 0n,
  },
  {
    section: '2.2.2.1',
    what: 'ours refuses a reserved bit of a device table entry that QEMU does not look at',
    explains: ({ ours, theirs, entry }) => isIllegal(entry) && !ours.done && only(ours, ILLEGAL_ENTRY) && !codes(theirs).includes('1'),
  },
  {
    section: '2.5.2',
    what: 'QEMU looks at an entry, and logs what is wrong with it, as soon as it is invalidated',
    explains: (step) => sameButEvents(step) && step.ours.events.length === 0 && isAll(step.theirs, ILLEGAL_ENTRY),
  },
  {
    section: '2.5.2',
    what: 'QEMU logs an entry with a reserved bit twice for one access',
    explains: (step) =>
      QEMU_RESERVED.some((mask, i) => (step.entry[i] & mask) !== 0n) &&
      sameButEvents(step) &&
      only(step.ours, ILLEGAL_ENTRY) &&
      codes(step.theirs) === '1,1' &&
      step.theirs.events.every((event) => isTheirs(event, ILLEGAL_ENTRY, 0n)),
  },
  {
    section: '2.2.2.1, V',
    what: 'QEMU refuses reserved bits of an entry that is not valid, too',
    explains: ({ ours, theirs, entry }) => ours.events.length === 0 && (entry[0] & 1n) === 0n && isAll(theirs, ILLEGAL_ENTRY),
  },
  {
    section: '2.2.2.1, bits 255:192',
    what: 'QEMU refuses bits of attributes and guest identifiers, which ours keeps and does not look at',
    explains: ({ ours, theirs, entry }) => entry[3] !== 0n && codes(ours) !== '1' && isAll(theirs, ILLEGAL_ENTRY),
  },
  {
    section: '2.4, 2.5.7',
    what: 'QEMU logs an illegal command, does it nevertheless, and goes on',
    explains: (step) => only(step.ours, ILLEGAL_COMMAND) && ['5', '1,5'].includes(codes(step.theirs)) && stopped(step),
  },
  {
    section: '2.4.4 to 2.4.8',
    what: 'QEMU does not look at all reserved bits of commands',
    explains: (step) => only(step.ours, ILLEGAL_COMMAND) && step.theirs.events.length === 0 && stopped(step),
  },
  {
    section: '2.4.6, PASID',
    what: 'QEMU takes bits of the PASID of PREFETCH_IOMMU_PAGES for reserved',
    explains: (step) =>
      opcode(step) === 6n &&
      sameButEvents(step) &&
      step.ours.events.length === 0 &&
      only(step.theirs, ILLEGAL_COMMAND) &&
      (step.words[0] & 0x0ff0_0000_00ff_0000n) !== 0n,
  },
  {
    section: '2.4.1, 2.5.8',
    what: 'QEMU says nothing of a store of COMPLETION_WAIT to where no memory is',
    explains: (step) => opcode(step) === 1n && only(step.ours, COMMAND_HARDWARE) && ['', '1'].includes(codes(step.theirs)) && stopped(step),
  },
];

const modeOf = ({ data }: Message) => (data >> 8) & 7;
const controlOf = ({ entry }: Message) => (entry >> 60n) & 3n;

/** What the interrupt table says (2.2.5.2), bits 10:0 of the data being the index. */
function remapped({ entry, words: [low, high], data }: Message): Interrupt {
  const part = (word: bigint, highest: number, lowest: number) => Number(field(word, highest, lowest));
  const isMapped = data < 1 << part(entry, 4, 1) && part(low, 0, 0) === 1;
  if (!isMapped || part(low, 4, 2) > 1 || part(low, 7, 7) === 1) return { kind: 'abort' };
  const isWide = high !== undefined;
  return {
    kind: 'remap',
    destination: isWide ? part(low, 31, 8) + part(high, 63, 56) * 2 ** 24 : part(low, 15, 8),
    logical: part(low, 6, 6) === 1,
    vector: isWide ? part(high, 7, 0) : part(low, 23, 16),
    delivery: part(low, 4, 2),
  };
}

/** NMIPass, INITPass or EIntPass holds for the delivery mode, and QEMU has no objection to the destination. */
function passesByMode(message: Message): boolean {
  const bit = { 4: 58n, 5: 56n, 7: 57n }[modeOf(message)];
  return bit !== undefined && ((message.entry >> bit) & 1n) !== 0n && (message.address & 4) === 0;
}

/** The message reached the machine as the device wrote it; beside one that ours remaps it is told by its fields. */
function isAsSent({ theirs, address, data }: Message): boolean {
  const fields = { destination: (address >>> 12) & 0xff, logical: (address & 4) !== 0, vector: data & 0xff, delivery: (data >> 8) & 7 };
  return theirs.kind === 'pass' || isDeepStrictEqual(theirs, { kind: 'remap', ...fields });
}

const INTERRUPTS: readonly Difference<Message>[] = [
  {
    section: '2.2.5.1, IntCtl 01b',
    what: 'QEMU, which should pass the message, sends vector 0 to APIC 0 instead',
    explains: (message) => {
      const { kind, destination, vector, logical, delivery } = message.theirs;
      const isZero = kind === 'remap' && destination === 0 && vector === 0 && !logical && delivery === 0;
      return controlOf(message) === 1n && modeOf(message) < 2 && message.ours.kind === 'pass' && isZero;
    },
  },
  {
    section: '2.2.5.1, bits 10:0 of the data are the index',
    what: 'QEMU takes bits 10:8 for a delivery mode first, and remaps the indices only where that is fixed or arbitrated',
    explains: (message) =>
      controlOf(message) === 2n &&
      modeOf(message) >= 2 &&
      isDeepStrictEqual(message.ours, remapped(message)) &&
      (passesByMode(message) ? isAsSent(message) : message.theirs.kind === 'abort'),
  },
  {
    section: '2.2.2.1, IntTabLen',
    what: 'QEMU does not look at the length of the table',
    explains: (message) =>
      controlOf(message) === 2n && message.ours.kind === 'abort' && message.data >= 1 << Number((message.entry >> 1n) & 15n),
  },
  {
    section: '2.2.5.1, IntCtl 01b',
    what: 'no section says what becomes of SMI and reserved delivery modes: ours passes them, QEMU does not',
    explains: (message) =>
      controlOf(message) === 1n && [2, 3, 6].includes(modeOf(message)) && message.ours.kind === 'pass' && message.theirs.kind === 'abort',
  },
  {
    section: '2.2.2.1, IntCtl 11b is reserved',
    what: 'QEMU looks at it for fixed and arbitrated interrupts only; ours refuses the entry',
    explains: (message) =>
      controlOf(message) === 3n && modeOf(message) >= 4 && message.ours.kind === 'abort' && message.theirs.kind === 'pass',
  },
  {
    section: '2.2.2.1, NMIPass, INITPass, EIntPass',
    what: 'QEMU passes such messages only where their destination is a physical one',
    explains: (message) =>
      [4, 5, 7].includes(modeOf(message)) && (message.address & 4) !== 0 && message.ours.kind === 'pass' && message.theirs.kind === 'abort',
  },
];

/** `same`, the difference that explains the step, or null. */
export function amdDifference(observation: Observation): string | null {
  if (isDeepStrictEqual(observation.ours, observation.theirs) && observation.landed) return 'same';
  return named(DEVICE, observation);
}

export function interruptDifference(message: Message): string | null {
  return isDeepStrictEqual(message.ours, message.theirs) ? 'same' : named(INTERRUPTS, message);
}

function named<T>(differences: readonly Difference<T>[], observation: T): string | null {
  const found = differences.find((difference) => difference.explains(observation));
  return found === undefined ? null : `${found.section}: ${found.what}`;
}
