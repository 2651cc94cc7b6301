import { type Field, get, getWide, isSet, put } from '../../src/target/fields.ts';
import { sizeOf } from '../../src/target/smmuv3/capabilities.ts';
import { CD } from '../../src/target/smmuv3/spec/cd.ts';
import { CLASS, EVENT, RECORD } from '../../src/target/smmuv3/spec/events.ts';
import { CONFIG, STE } from '../../src/target/smmuv3/spec/ste.ts';
import { At, eventOf, type Side } from './smmuv3-machine.ts';

/** One step on both sides, and what led to it. */
export interface Observation {
  readonly ours: Side;
  readonly theirs: Side;
  readonly what: string;
  /** The command, of steps that submit one. */
  readonly command: readonly bigint[];
  readonly ste: Int32Array;
  readonly cd: Int32Array;
  /** The data is where ours says; true where ours says nothing. */
  readonly landed: boolean;
}

/** Where QEMU 11.1's smmuv3 is not what the specification asks for, or the specification leaves the choice. */
interface Difference {
  readonly section: string;
  readonly what: string;
  explains(observation: Observation): boolean;
}

const STE_CONFIG = (ste: Int32Array) => get(ste, STE.CONFIG);
const isCommand = ({ command }: Observation, ...opcodes: number[]) => command.length > 0 && opcodes.includes(Number(command[0] & 0xffn));
const refusedByOursAlone = ({ ours, theirs }: Observation) => ours.gerror === 1 && theirs.gerror === 0;

const DIFFERENCES: readonly Difference[] = [
  {
    section: '4.5.1, 4.5.2, 4.7.1, 4.7.2, 4.4.2: CERROR_ILL without ATS, PRI, stalls or Hyp',
    what: 'QEMU, which has none of them, takes their commands all the same',
    explains: (o) => isCommand(o, 0x40, 0x41, 0x44, 0x45, 0x20, 0x21, 0x22, 0x23) && refusedByOursAlone(o),
  },
  {
    section: '3.4: what bypasses stage 1 is no wider than OAS; F_ADDR_SIZE is recorded',
    what: 'QEMU lets streams that bypass pass, and records the others as CD.R says, without a CD',
    explains: (o) =>
      eventOf(o.ours) === EVENT.F_ADDR_SIZE && (STE_CONFIG(o.ste) & 1) === 0 && isOfStage1(o.ours) && eventOf(o.theirs) === 0,
  },
  {
    section: '7.3, RnW: that of the incoming transaction',
    what: 'QEMU says of a write whose context descriptor, or TTB, stage 2 refuses that it is a read',
    explains: ({ ours, theirs }) =>
      classOf(ours) !== CLASS.IN && eventOf(ours) >= EVENT.F_WALK_EABT && isEqual(changed(ours, RECORD.RNW), changed(theirs, RECORD.RNW)),
  },
  {
    section: 'DDI 0487, D8.15.5, "MMU fault prioritization from a single address translation stage"',
    what: 'Address size comes before Access flag and Permission; QEMU has it last',
    explains: ({ ours, theirs }) =>
      eventOf(ours) === EVENT.F_ADDR_SIZE && [EVENT.F_ACCESS, EVENT.F_PERMISSION].some((number) => number === eventOf(theirs)),
  },
  {
    section: 'DDI 0487, D8.2, "Output address size": Address size faults of table descriptors',
    what: 'a next-level table beyond the output size faults; QEMU reads there',
    explains: ({ ours, theirs }) =>
      !ours.done && [0, EVENT.F_ADDR_SIZE].some((number) => number === eventOf(ours)) && eventOf(theirs) === EVENT.F_WALK_EABT,
  },
  {
    section: '5.2, S2HA and S2HD: ILLEGAL without HTTU',
    what: 'QEMU looks at neither',
    explains: ({ ours, ste }) =>
      eventOf(ours) === EVENT.C_BAD_STE && (STE_CONFIG(ste) & 2) !== 0 && (isSet(ste, STE.S2HA) || isSet(ste, STE.S2HD)),
  },
  {
    section: '4.3.3, 4.3.4: CERROR_ILL without stage 1',
    what: 'QEMU takes CFGI_CD and CFGI_CD_ALL',
    explains: (o) => isCommand(o, 0x05, 0x06) && (o.command[0] & 0x400n) === 0n && refusedByOursAlone(o),
  },
  {
    section: '4.7.3: CMD_SYNC with CS 3 is CERROR_ILL',
    what: 'QEMU takes it',
    explains: (o) => isCommand(o, 0x46) && ((o.command[0] >> 12n) & 3n) === 3n && refusedByOursAlone(o),
  },
  {
    section: 'DDI 0487, D8.15.5, "MMU fault prioritization from a single address translation stage"',
    what: 'APTable limits what the leaf grants, after everything else was checked; QEMU faults at the table descriptor, and does not keep it in its TLB',
    explains: ({ ours, theirs, cd }) => {
      if (ours.done || (isSet(cd, CD.HAD0) && isSet(cd, CD.HAD1))) return false;
      if (theirs.done) return eventOf(ours) === EVENT.F_PERMISSION || isUnrecorded(ours, cd);
      return eventOf(theirs) === EVENT.F_PERMISSION && isOfStage1(theirs) && eventOf(ours) !== EVENT.F_PERMISSION;
    },
  },
  {
    section: '7.3.12: where there is memory the machine says',
    what: 'below RAM QEMU has flash and devices, from 512 GiB on PCI, and reads tables and descriptors there',
    explains: ({ ours }) =>
      [EVENT.F_WALK_EABT, EVENT.F_CD_FETCH].some((number) => number === eventOf(ours)) &&
      (fetchOf(ours) < 0x4000_0000 || fetchOf(ours) >= 2 ** 39),
  },
  {
    section: '4.4.1.1: TG without a range or a level is CERROR_ILL',
    what: 'QEMU takes it',
    explains: (o) => isCommand(o, 0x12, 0x13, 0x22, 0x23, 0x2a) && (o.command[1] & 0xc00n) !== 0n && refusedByOursAlone(o),
  },
  {
    section: '4.1.6, SSec: CERROR_ILL on the Non-secure queue',
    what: 'QEMU, which prefetches nothing, does not look at it',
    explains: (o) => isCommand(o, 0x01, 0x02) && (o.command[0] & 0x400n) !== 0n && refusedByOursAlone(o),
  },
  {
    section: '4.4.2.5, 4.4.2.6: CERROR_ILL on the Non-secure queue',
    what: 'QEMU takes TLBI_EL3_ALL and TLBI_EL3_VA',
    explains: (o) => isCommand(o, 0x18, 0x1a) && refusedByOursAlone(o),
  },
  {
    section: 'DDI 0487, D8.2, "Output address size": Address size faults of table descriptors',
    what: 'a next-level table beyond IPS faults at stage 1; QEMU has stage 2 translate it',
    explains: ({ ours, theirs, cd }) =>
      (eventOf(ours) === EVENT.F_ADDR_SIZE ? isOfStage1(ours) : isUnrecorded(ours, cd)) &&
      classOf(theirs) === CLASS.TT &&
      ipaOf(theirs) >= 2 ** 20,
  },
  {
    section: '7.3, S2 and TTRnW: set where stage 2 refuses that a table of stage 1 be read',
    what: 'QEMU does not set them',
    explains: ({ ours, theirs }) =>
      classOf(ours) === CLASS.TT && isEqual(changed(ours, RECORD.S2, RECORD.TTRNW), changed(theirs, RECORD.S2, RECORD.TTRNW)),
  },
  {
    section: '3.4.3, 1: C_BAD_STE',
    what: 'QEMU fetches from where S1ContextPtr beyond OAS leads',
    explains: ({ ours, theirs, ste }) =>
      eventOf(ours) === EVENT.C_BAD_STE && eventOf(theirs) === EVENT.F_CD_FETCH && getWide(ste, STE.S1CONTEXT_PTR) * 64 >= 2 ** 44,
  },
  {
    section: '5.2, S2T0SZ: 64 - IAS at least',
    what: 'QEMU has the input no wider than S2PS',
    explains: ({ theirs, ste }) =>
      eventOf(theirs) === EVENT.C_BAD_STE && (STE_CONFIG(ste) & 2) !== 0 && 64 - get(ste, STE.S2T0SZ) > sizeOf(get(ste, STE.S2PS)),
  },
  {
    section: '5.2, S2SL0: ILLEGAL where it does not fit S2T0SZ',
    what: 'QEMU takes first tables of less than two entries',
    explains: ({ ours, ste }) => eventOf(ours) === EVENT.C_BAD_STE && (STE_CONFIG(ste) & 2) !== 0 && rootBits(ste) < 1,
  },
  {
    section: 'DDI 0487, D8.2, "Concatenated translation tables"',
    what: 'the index of a concatenated root goes on from table to table; QEMU aligns the table it chose down to the first one',
    explains: ({ ste }) => (STE_CONFIG(ste) & 2) !== 0 && rootBits(ste) > 9,
  },
  {
    section: '5.2, S1STALLD: IGNORED without stage 1',
    what: 'QEMU, which has no stalls, refuses the entry',
    explains: ({ theirs, ste }) => eventOf(theirs) === EVENT.C_BAD_STE && (STE_CONFIG(ste) & 1) === 0 && isSet(ste, STE.S1STALLD),
  },
  {
    section: '5.2, S1CDMax: IGNORED without substreams',
    what: 'QEMU, which has none, refuses the entry',
    explains: ({ theirs, ste }) => eventOf(theirs) === EVENT.C_BAD_STE && isSet(ste, STE.S1CDMAX),
  },
  {
    section: '7.3.16, IPA: where stage 2 refused',
    what: 'QEMU has none for what it finds in its TLB',
    explains: ({ ours, theirs }) =>
      eventOf(ours) === EVENT.F_PERMISSION &&
      eventOf(theirs) === EVENT.F_PERMISSION &&
      !isOfStage1(ours) &&
      !isOfStage1(theirs) &&
      ipaOf(theirs) === 0,
  },
  {
    section: '5.2, S2R',
    what: 'QEMU takes a write that its TLB refuses to a stream of stage 2 alone for a fault of stage 1, and without a CD records none',
    explains: ({ ours, theirs, ste }) =>
      STE_CONFIG(ste) === CONFIG.stage2 &&
      eventOf(ours) === EVENT.F_PERMISSION &&
      get(ours.events[0], RECORD.RNW) === 0 &&
      !theirs.done &&
      theirs.events.length === 0,
  },
  {
    section: '5.5, R: of the stage that faulted',
    what: 'QEMU asks CD.R whether faults of stage 2 on stage 1 tables are recorded',
    explains: ({ ours, theirs, ste, cd }) =>
      !ours.done &&
      (classOf(ours) === CLASS.TT
        ? theirs.events.length === 0 && !isSet(cd, CD.R)
        : ours.events.length === 0 && classOf(theirs) === CLASS.TT && !isSet(ste, STE.S2R)),
  },
  {
    section: '7.3.22: stage 1 walks its first table when the input has been found in range, and only the one that it needs',
    what: 'QEMU has stage 2 translate both TTBs when it fetches the descriptor, and where that fails does as S2R says',
    explains: ({ theirs, ste, cd }) =>
      STE_CONFIG(ste) === CONFIG.nested &&
      !theirs.done &&
      [CD.TTB0, CD.TTB1].some((ttb) => {
        const page = Math.floor(getWide(cd, ttb) / 256);
        return theirs.events.length === 0
          ? !isSet(ste, STE.S2R) && isOutside(page)
          : classOf(theirs) === CLASS.TT && ipaOf(theirs) === page;
      }),
  },
  {
    section: '3.4.3, 2: F_TRANSLATION of stage 2, or C_BAD_STE',
    what: 'QEMU records nothing where S1ContextPtr is beyond OAS and an IPA',
    explains: ({ ours, theirs, ste }) =>
      classOf(ours) === CLASS.CD && theirs.events.length === 0 && getWide(ste, STE.S1CONTEXT_PTR) * 64 >= 2 ** 44,
  },
  {
    section: '5.4, PAN',
    what: 'QEMU lets the privileged reach what the unprivileged do all the same',
    explains: ({ ours, cd }) => [0, EVENT.F_PERMISSION].some((number) => number === eventOf(ours)) && !ours.done && isSet(cd, CD.PAN),
  },
  {
    section: '7.3.16: reads need permission',
    what: 'QEMU lets reads through what its TLB holds for writes alone',
    explains: ({ ours, theirs }) =>
      eventOf(ours) === EVENT.F_PERMISSION && get(ours.events[0], RECORD.RNW) === 1 && theirs.events.length === 0,
  },
  {
    section: '7.3.10, FetchAddr: doubleword 3, as in F_STE_FETCH',
    what: 'QEMU puts it where other events have InputAddr',
    explains: ({ ours, theirs }) => {
      if (eventOf(ours) !== EVENT.F_CD_FETCH || eventOf(theirs) !== EVENT.F_CD_FETCH) return false;
      const [record] = theirs.events;
      return isEqual(ours.events, [Int32Array.of(record[0], record[1], record[2], record[3], 0, 0, record[4], record[5])]);
    },
  },
];

/** Bits of the index of stage 2's first table, of 4K granules (DDI 0487, D8.2). */
function rootBits(ste: Int32Array): number {
  const start = 2 - get(ste, STE.S2SL0);
  return 64 - get(ste, STE.S2T0SZ) - 12 - 9 * (3 - start);
}

/** A page that stage 2's tables of the test lead nowhere: outside RAM, and in the block of which eight pages alone are mapped. */
function isOutside(page: number): boolean {
  const data = At.data / 4096;
  return page < 0x4_0000 || page >= 0x4_4000 || (page >= data + 8 && page < data + 512);
}

/** Where a record says that nothing could be read. */
function fetchOf({ events }: Side): number {
  return events.length === 0 ? -1 : getWide(events[0], RECORD.FETCH) * 8;
}

/** Page of a record's IPA. */
function ipaOf({ events }: Side): number {
  return events.length === 0 ? -1 : getWide(events[0], RECORD.IPA);
}

function classOf({ events }: Side): number {
  return events.length === 0 ? -1 : get(events[0], RECORD.CLASS);
}

/** A side's records with one-bit fields set. */
function changed({ events }: Side, ...fields: readonly Field[]): Int32Array[] {
  return events.map((record) => {
    const words = Int32Array.from(record);
    for (const field of fields) put(words, field, 1);
    return words;
  });
}

/** A fault of stage 1 whose descriptor wants no record. */
function isUnrecorded({ done, events }: Side, cd: Int32Array): boolean {
  return !done && events.length === 0 && !isSet(cd, CD.R);
}

function isOfStage1({ events }: Side): boolean {
  return events.length > 0 && get(events[0], RECORD.S2) === 0;
}

/**
 * A record as both sides can be expected to have it: QEMU takes every access as privileged and says that it was not (7.3, PnU), and has
 * all bits of an IPA, of which a record has bits 12 and up.
 */
function comparable(record: Int32Array): Int32Array {
  const words = Int32Array.from(record);
  put(words, RECORD.PNU, 0);
  if (get(words, RECORD.S2) === 1 && get(words, RECORD.NUMBER) !== EVENT.F_WALK_EABT) words[6] &= ~0xfff;
  return words;
}

function isEqual(ours: readonly Int32Array[], theirs: readonly Int32Array[]): boolean {
  return (
    ours.length === theirs.length && ours.every((record, i) => comparable(record).every((word, at) => word === comparable(theirs[i])[at]))
  );
}

/** `same`, the difference that explains the step, or null. */
export function smmuDifference(observation: Observation): string | null {
  const { ours, theirs, landed } = observation;
  const equal =
    ours.done === theirs.done && isEqual(ours.events, theirs.events) && ours.cons === theirs.cons && ours.gerror === theirs.gerror;
  if (equal && landed) return 'same';
  const found = DIFFERENCES.find((difference) => difference.explains(observation));
  return found === undefined ? null : `${found.section}: ${found.what}`;
}
