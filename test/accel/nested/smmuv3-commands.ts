import { OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import type { Command } from '../../target/smmuv3/guest.ts';

/* Commands of an SMMUv3 as a driver writes them: Arm IHI 0070, chapter 4. */

/** CMD_SYNC without a signal. */
export const SYNC: Command = [BigInt(OPCODE.SYNC), 0n];
export const cfgiSte = (stream: number): Command => [BigInt(OPCODE.CFGI_STE) | (BigInt(stream) << 32n), 1n];
export const cfgiCd = (stream: number, substream = 0): Command => [
  BigInt(OPCODE.CFGI_CD) | (BigInt(substream) << 12n) | (BigInt(stream) << 32n),
  1n,
];
export const tlbiAsid = (asid: number): Command => [BigInt(OPCODE.TLBI_NH_ASID) | (BigInt(asid) << 48n), 0n];
export const tlbiAll: Command = [BigInt(OPCODE.TLBI_NSNH_ALL), 0n];
export const tlbiPage = (asid: number, pfn: number): Command => [
  BigInt(OPCODE.TLBI_NH_VA) | (BigInt(asid) << 48n),
  (BigInt(pfn) << 12n) | 1n,
];
