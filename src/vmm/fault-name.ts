import { errnoName } from '../host/errno.ts';
import { requireNumber } from '../memory/arguments.ts';
import { MEM_FAULT } from '../memory/guest-memory.ts';
import { EVENT } from '../target/amd/spec/events.ts';
import * as amd from '../target/amd/spec/faults.ts';
import { FAULT_BASE, type FaultSource, targetFault } from '../target/fault-codes.ts';
import { Cause } from '../target/riscv/spec/causes.ts';
import * as riscv from '../target/riscv/spec/faults.ts';
import { EVENT as SMMU_EVENT } from '../target/smmuv3/spec/events.ts';
import * as smmuv3 from '../target/smmuv3/spec/faults.ts';
import * as spapr from '../target/spapr/faults.ts';
import { FAULT_R_DOMAIN, FAULT_R_MAPPING, FAULT_R_UNKNOWN } from '../target/virtio-iommu/spec/fault.ts';
import { FAULT_PROTECTED, Fault } from '../target/vtd/spec/faults.ts';
import { PEC } from '../target/zpci/spec/codes.ts';
import * as zpci from '../target/zpci/spec/faults.ts';

/** By fault code: the specification's name of the fault. One line a target. */
const NAMES: ReadonlyMap<number, string> = new Map([
  ...named('virtio-iommu', { UNKNOWN: FAULT_R_UNKNOWN, DOMAIN: FAULT_R_DOMAIN, MAPPING: FAULT_R_MAPPING }),
  ...named('vtd', Fault),
  ...named('amd', EVENT),
  ...named('zpci', PEC),
  ...named('riscv', Cause),
  ...named('smmuv3', SMMU_EVENT),
  ...[spapr, { FAULT_PROTECTED }, amd, zpci, riscv, smmuv3].flatMap(codes),
]);

/** Numbers of a target's faults. */
const NUMBERS = 0x1_0000;

/** The target whose fault a code is; null for MEM_FAULT, an errno, and what is no answer of a device's access. */
export function faultSource(code: number): FaultSource | null {
  requireNumber('faultSource', 'code', code);
  for (const [source, base] of Object.entries(FAULT_BASE) as [FaultSource, number][])
    if (-code >= base && -code < base + NUMBERS) return source;
  return null;
}

/** The architecture's own number of a target's fault: a VT-d fault reason, a RISC-V cause, an event code; null where `faultSource` is. */
export function faultNumber(code: number): number | null {
  requireNumber('faultNumber', 'code', code);
  const source = faultSource(code);
  return source === null ? null : -code - FAULT_BASE[source];
}

/**
 * What a negative answer says: a target's fault by its specification's name, an access outside guest RAM, or an errno.
 *
 * @example
 * faultName(-0x60102); // 'riscv ddtNotValid'
 * faultName(MEM_FAULT); // 'MEM_FAULT'
 * faultName(-22); // 'EINVAL'
 */
export function faultName(code: number): string {
  requireNumber('faultName', 'code', code);
  if (code === MEM_FAULT) return 'MEM_FAULT';
  const source = faultSource(code);
  if (source !== null) return `${source} ${NAMES.get(code) ?? `0x${(-code - FAULT_BASE[source]).toString(16)}`}`;
  return code < 0 && code > MEM_FAULT ? errnoName(code) : `no fault: ${code}`;
}

function named(source: FaultSource, numbers: Readonly<Record<string, number>>): [number, string][] {
  return Object.entries(numbers).map(([name, number]) => [targetFault(source, number), name]);
}

/** FAULT_ENDPOINT and the like, which no specification numbers. */
function codes(of: Readonly<Record<string, number>>): [number, string][] {
  return Object.entries(of).map(([name, code]) => [code, name]);
}
