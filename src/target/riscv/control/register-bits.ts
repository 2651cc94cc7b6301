import { hiOf, loOf } from '../../../memory/address.ts';
import { type Field, reservedMask, type WideField } from '../../fields.ts';
import { ALL_CAPABILITIES } from '../capabilities.ts';
import { defaultFctl, type RiscvIommuConfig } from '../options.ts';
import {
  CAPABILITIES,
  CapHi,
  CQB,
  CQCSR,
  CQH,
  CQT,
  Csr,
  DDTP,
  DDTP_BUSY,
  DDTP_FIELDS,
  DdtMode,
  FCTL,
  Fctl,
  FQB,
  FQCSR,
  FQH,
  FQT,
  ICVEC,
  ICVEC_FIELDS,
  IOCOUNTINH,
  IOHPMCYCLES,
  IOMMU_QOSID,
  IPSR,
  MSI_ADDR,
  MSI_CFG_TBL,
  MSI_CFG_TBL_END,
  MSI_DATA,
  MSI_VEC_CTL,
  PQB,
  PQCSR,
  PQH,
  PQT,
  QOSID_FIELDS,
  QUEUE_BASE,
  TR_REQ_CTL,
  TR_REQ_CTL_FIELDS,
  TR_REQ_IOVA,
  TR_RESPONSE,
  TR_RESPONSE_FIELDS,
  VEC_CTL_M,
} from '../spec/registers.ts';
import type { Registers } from './registers.ts';

type Bits = readonly [lo: number, hi: number];

/** The register file at power-on. */
export function powerOn(registers: Registers, config: RiscvIommuConfig): void {
  const { capabilities = ALL_CAPABILITIES, fctl = defaultFctl(capabilities), resetMode = 0 } = config;
  registers.words.fill(0);
  registers.set(CAPABILITIES, loOf(capabilities));
  registers.set(CAPABILITIES + 4, hiOf(capabilities));
  registers.set(FCTL, fctl);
  registers.set(DDTP, resetMode);
}

/** The register file as saved words have it, capabilities included. What is no bit of a register stays as at power-on; so does a mode that cannot be written. */
export function restore(registers: Registers, saved: readonly number[], config: RiscvIommuConfig): void {
  const { maxMode = DdtMode.threeLevels } = config;
  powerOn(registers, config);
  for (const offset of [CAPABILITIES, CAPABILITIES + 4]) registers.set(offset, saved[offset >>> 2]);
  for (const [offset, bits] of bitsOfRegisters(registers))
    registers.set(offset, (registers.get(offset) & ~bits) | (saved[offset >>> 2] & bits));
  if (registers.mode > maxMode) registers.clearBits(DDTP, DDTP_FIELDS.MODE.mask);
}

/** Bits that registers have, by offset of their words, whatever of them this IOMMU lets software write. */
function bitsOfRegisters(registers: Registers): ReadonlyMap<number, number> {
  const held = new Map<number, number>();
  const hold = (offset: number, ...words: readonly number[]) => {
    for (const [half, word] of words.entries()) held.set(offset + 4 * half, word);
  };
  // A page number begins at bit 10, its address at bit 12.
  const pages = lowest((registers.get(CAPABILITIES + 4) & CapHi.pas) - 2);
  const page = (low: number) => [(pages[0] & ~0x3ff) | low, pages[1]] as const;
  hold(FCTL, Fctl.be | Fctl.wsi | Fctl.gxl);
  hold(DDTP, ...page(DDTP_FIELDS.MODE.mask | DDTP_BUSY));
  const errors = Csr.memoryFault | Csr.overflow;
  const queues = [
    [CQB, CQH, CQT, CQCSR, Csr.memoryFault | Csr.timeout | Csr.illegal | Csr.fence],
    [FQB, FQH, FQT, FQCSR, errors],
    [PQB, PQH, PQT, PQCSR, errors],
  ] as const;
  for (const [base, head, tail, csr, own] of queues) {
    hold(base, ...page(QUEUE_BASE.LOG2SZ_1.mask));
    for (const index of [head, tail]) hold(index, -1);
    hold(csr, Csr.enable | Csr.interruptEnable | Csr.on | Csr.busy | own);
  }
  hold(IPSR, 0xf);
  hold(IOCOUNTINH, -1);
  // iohpmcycles, the counters, their selectors, the debug registers' address.
  for (let offset = IOHPMCYCLES; offset < TR_REQ_IOVA; offset += 4) hold(offset, -1);
  hold(TR_REQ_IOVA, ~0xfff, -1);
  // A translation is over when the write that asks for it returns.
  const { GO_BUSY: _, ...request } = TR_REQ_CTL_FIELDS;
  hold(TR_REQ_CTL, ...bitsOf(request));
  hold(TR_RESPONSE, ...bitsOf(TR_RESPONSE_FIELDS));
  hold(IOMMU_QOSID, bitsOf(QOSID_FIELDS)[0]);
  hold(ICVEC, bitsOf(ICVEC_FIELDS)[0]);
  for (let entry = MSI_CFG_TBL; entry < MSI_CFG_TBL_END; entry += 16) {
    hold(entry + MSI_ADDR, ~3, registers.addressHiMask);
    hold(entry + MSI_DATA, -1);
    hold(entry + MSI_VEC_CTL, VEC_CTL_M);
  }
  return held;
}

/** The lowest bits, as two words. */
function lowest(bits: number): Bits {
  const word = (count: number) => (count >= 32 ? -1 : (1 << Math.max(count, 0)) - 1);
  return [word(bits), word(bits - 32)];
}

function bitsOf(fields: Readonly<Record<string, Field | WideField>>): Bits {
  const [lo, hi] = reservedMask(1, Object.values(fields));
  return [~lo, ~hi];
}
