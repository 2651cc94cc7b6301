import { EXECUTE, WRITE } from '../../../memory/access.ts';
import { NO_PASID } from '../../target.ts';
import { Cause, TransactionType } from '../spec/causes.ts';

/** Kinds of request; the numbers are PCIe's AT field. */
export const Kind = { untranslated: 0, ats: 1, translated: 2 } as const;
export type RequestKind = (typeof Kind)[keyof typeof Kind];

/** The original access that a cause is named for: an ATS translation request is a read, whatever permissions it asks for. */
export function blamed(kind: RequestKind, access: number): number {
  return kind === Kind.ats ? access & ~WRITE : access;
}

/** The cause of a family (page, guest-page, access fault) by the original access: fetch, read, write are 0, 1 and 3 apart; access faults 0, 4 and 6. */
export function byAccess(access: number, instruction: number): number {
  if ((access & EXECUTE) !== 0) return instruction;
  if (instruction === Cause.instructionAccessFault) return (access & WRITE) !== 0 ? Cause.writeAccessFault : Cause.readAccessFault;
  return instruction + ((access & WRITE) !== 0 ? 3 : 1);
}

/** "Fault record TTYP field encodings". */
export function typeOf(kind: RequestKind, access: number, process: number): number {
  if (kind === Kind.ats) return TransactionType.atsTranslation;
  const base = kind === Kind.untranslated ? TransactionType.untranslatedExecute : TransactionType.translatedExecute;
  if ((access & WRITE) !== 0) return base + 2;
  return (access & EXECUTE) !== 0 && (kind === Kind.untranslated || process !== NO_PASID) ? base : base + 1;
}

/** Causes that an ATS translation request answers with success and no permission: not reported ("PCIe ATS translation request handling"). */
const ANSWERED: ReadonlySet<number> = new Set([12, 13, 15, 20, 21, 23, 262, 266]);

/** Whether an ATS translation request that ends so is answered with success and no permission. */
export function isAnswered(cause: number): boolean {
  return ANSWERED.has(cause);
}

/** Whether a fault of such a request goes to the fault queue. */
export function isReported(kind: RequestKind, cause: number): boolean {
  return kind !== Kind.ats || !isAnswered(cause);
}
