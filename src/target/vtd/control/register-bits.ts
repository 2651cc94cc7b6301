import type { VtdChoices } from '../options.ts';
import { FRCD_BYTES } from '../spec/fault-record.ts';
import {
  CCMD,
  ContextCommand,
  EVENT_ADDRESS,
  EVENT_DATA,
  EVENT_UPPER_ADDRESS,
  EventControl,
  FaultStatus,
  FECTL,
  FSTS,
  Global,
  GSTS,
  ICS,
  ICS_IWC,
  IECTL,
  InterruptTable,
  InvalidationQueueAddress,
  IOTLB,
  IotlbCommand,
  IQA,
  IQERCD,
  IQH,
  IQT,
  IRTA,
  IVA,
  PageRequestStatus,
  PECTL,
  PHMBASE,
  PHMLIMIT,
  PLMBASE,
  PLMLIMIT,
  PMEN,
  PQA,
  PQA_PQS,
  PQH,
  PQT,
  PRS,
  ProtectedMemoryEnable,
  QUEUE_OFFSET,
  RootTable,
  RTADDR,
} from '../spec/registers.ts';

const PAGE = ~0xfff;
/** Protected regions are aligned to 2 MiB. */
const PROTECTED = ~0x1f_ffff;
const EVENT = EventControl.IM | EventControl.IP;

/** Bits that software reads back as it wrote them; addresses end at the host address width ("may not implement"). */
export function keptBits(choices: VtdChoices): ReadonlyMap<number, number> {
  const upper = 2 ** (choices.hostAddressWidth - 32) - 1;
  const event = (control: number): [number, number][] => [
    [control + EVENT_DATA, 0xffff],
    [control + EVENT_ADDRESS, ~3],
    [control + EVENT_UPPER_ADDRESS, -1],
  ];
  const kept: [number, number][] = [
    [RTADDR, PAGE | RootTable.TTM],
    [RTADDR + 4, upper],
    [CCMD, -1],
    [CCMD + 4, (3 << ContextCommand.CIRG_SHIFT) | ContextCommand.FM],
    [IVA, PAGE | IotlbCommand.AM | IotlbCommand.IH],
    [IVA + 4, -1],
    [IOTLB + 4, (3 << IotlbCommand.IIRG_SHIFT) | IotlbCommand.DRAINS | IotlbCommand.DID],
    [IQT, QUEUE_OFFSET],
    [IQA, PAGE | InvalidationQueueAddress.DW | InvalidationQueueAddress.QS],
    [IQA + 4, upper],
    ...event(FECTL),
    ...event(IECTL),
  ];
  if (choices.interruptRemapping)
    kept.push([IRTA, PAGE | InterruptTable.S | (choices.extendedInterruptMode ? InterruptTable.EIME : 0)], [IRTA + 4, upper]);
  if (choices.protectedMemory) {
    kept.push([PMEN, ProtectedMemoryEnable.EPM], [PLMBASE, PROTECTED], [PLMLIMIT, PROTECTED]);
    for (const register of [PHMBASE, PHMLIMIT]) kept.push([register, PROTECTED], [register + 4, upper]);
  }
  if (choices.pageRequests)
    kept.push([PQH, QUEUE_OFFSET & ~16], [PQT, QUEUE_OFFSET & ~16], [PQA, PAGE | PQA_PQS], [PQA + 4, upper], ...event(PECTL));
  return new Map(kept);
}

/** Bits that a register can ever hold, by offset: those, and what the unit sets. What is not here stays as after a reset. `records`: offset of the first fault record. */
export function heldBits(choices: VtdChoices, records: number): ReadonlyMap<number, number> {
  const held = new Map(keptBits(choices));
  const set = (offset: number, bits: number) => held.set(offset, (held.get(offset) ?? 0) | bits);
  const { PFO, PPF, IQE, ICE, ITE, FRI_SHIFT } = FaultStatus;
  set(GSTS, Global.TE | Global.SRTP | Global.QIE | (choices.interruptRemapping ? Global.IRE | Global.SIRTP | Global.CFI : 0));
  set(CCMD + 4, ContextCommand.CAIG);
  set(IOTLB + 4, IotlbCommand.IAIG);
  set(FSTS, PFO | PPF | IQE | ICE | ITE | (0xff << FRI_SHIFT));
  set(IQH, QUEUE_OFFSET);
  set(ICS, ICS_IWC);
  set(IQERCD, 0xf);
  set(IQERCD + 4, -1);
  for (const control of choices.pageRequests ? [FECTL, IECTL, PECTL] : [FECTL, IECTL]) set(control, EVENT);
  if (choices.pageRequests) set(PRS, PageRequestStatus.PPR | PageRequestStatus.PRO);
  for (let at = records; at < records + choices.faultRecords * FRCD_BYTES; at += 4) set(at, -1);
  return held;
}
