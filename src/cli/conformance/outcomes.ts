import { type AtsMessage, Kind } from '../../target/riscv/index.ts';
import type { RecordedLine } from '../recording.ts';

/*
 * What requests and messages come to, as text: the recording's and the device's are compared as such, and shown as such
 * where they differ. Only what the specification defines for the kind of request is in it.
 */

/** Nothing where something was expected, or the other way round. */
export const NOTHING = 'nothing';

/** A response to a request that succeeded. */
export interface Response {
  /** The page that the address goes to. */
  readonly page: bigint;
  readonly pbmt: number;
  readonly interruptFile: boolean;
  /** `address nid` of an interrupt file in memory. */
  readonly mrif: string | null;
}

/** Of an ATS translation request. */
export interface Completion {
  /** The page number with its size coded in. */
  readonly page: bigint;
  readonly large: boolean;
  /** cxlIo, global, priv, U, R, W, X. */
  readonly flags: readonly boolean[];
}

export function responseText({ page, pbmt, interruptFile, mrif }: Response): string {
  return `page 0x${page.toString(16)} pbmt ${pbmt}${interruptFile ? ' interrupt file' : ''}${mrif === null ? '' : ` mrif ${mrif}`}`;
}

const FLAGS = ['cxlIo', 'global', 'priv', 'U', 'R', 'W', 'X'] as const;

export function completionText({ page, large, flags }: Completion): string {
  const granted = flags[4] || flags[5] || flags[6];
  // Without any permission the translated address is unspecified.
  const address = granted ? `ppn 0x${page.toString(16)} S ${Number(large)} ` : '';
  return address + FLAGS.filter((_, i) => flags[i]).join(' ');
}

/** The outcome that the model recorded for an `xlate` line. */
export function recordedOutcome(line: RecordedLine): string {
  const status = line.u32('status');
  if (status !== 0) return `status ${status}`;
  const rsp = line.object('rsp');
  const page = rsp.u64('ppn');
  const large = rsp.u32('S') === 1;
  if (line.u32('at') === Kind.ats) return completionText({ page, large, flags: FLAGS.map((flag) => rsp.u32(flag) === 1) });
  const isMrif = rsp.u32('isMrif') === 1;
  return responseText({
    page: pageWithin(page, large, line.u64('iova') >> 12n),
    pbmt: rsp.u32('pbmt'),
    interruptFile: rsp.u32('isMsi') === 1,
    mrif: isMrif ? mrifText(rsp.u64('mrifAddr'), rsp.u32('mrifNid')) : null,
  });
}

export function mrifText(address: bigint, notice: number): string {
  return `0x${address.toString(16)} ${notice}`;
}

/** The page that a page goes to in a range whose size is coded in its number. How large it is shows in ATS completions only. */
export function pageWithin(ppn: bigint, large: boolean, page: bigint): bigint {
  const offset = large ? ppn ^ (ppn + 1n) : 0n;
  return (ppn & ~offset) | (page & offset);
}

export function messageOf(line: RecordedLine): AtsMessage {
  return {
    code: line.u32('msgcode'),
    tag: line.u32('tag'),
    requester: line.u32('rid'),
    segment: line.u32('dsv') === 1 ? line.u32('dseg') : null,
    pasid: line.u32('pv') === 1 ? line.u32('pid') : null,
    privileged: line.u32('priv') === 1,
    execute: line.u32('exec') === 1,
    payload: line.u64('payload'),
  };
}

export function messageText({ code, tag, requester, segment, pasid, privileged, execute, payload }: AtsMessage): string {
  return `message ${code} tag ${tag} to ${segment}:${requester} pasid ${pasid} priv ${privileged} exec ${execute} 0x${payload.toString(16)}`;
}

export function fenceText(reads: boolean, writes: boolean): string {
  return `fence of${reads ? ' reads' : ''}${writes ? ' writes' : ''}`;
}

export function memoryText(address: number, value: bigint): string {
  return `[0x${address.toString(16)}] = 0x${value.toString(16).padStart(16, '0')}`;
}
