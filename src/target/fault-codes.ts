/**
 * Where each target's fault codes begin, by the target's name. What is answered below 0 has one meaning: -1 to -4095 are errnos as Linux has
 * them, then MEM_FAULT, then what a walk of tables answers (src/pagetable/page-table.ts), and from -0x1_0000 on each target has 2^16 codes.
 */
export const FAULT_BASE = {
  spapr: 0x1_0000,
  'virtio-iommu': 0x2_0000,
  vtd: 0x3_0000,
  amd: 0x4_0000,
  zpci: 0x5_0000,
  riscv: 0x6_0000,
  smmuv3: 0x7_0000,
} as const;

/** Whose fault it is: a target's name. */
export type FaultSource = keyof typeof FAULT_BASE;

/**
 * What `Target.translate` answers for a fault: the architecture's own number of it (a VT-d fault reason, a RISC-V cause, an event code; 0 to
 * 0xffff) in the target's range of codes.
 *
 * @example
 * targetFault('riscv', 258); // -0x60102
 */
export function targetFault(source: FaultSource, number: number): number {
  return -(FAULT_BASE[source] + number);
}
