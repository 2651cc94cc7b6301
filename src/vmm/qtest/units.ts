import type { GuestMemory } from '../../memory/guest-memory.ts';
import { AmdIommu } from '../../target/amd/index.ts';
import { RiscvIommu } from '../../target/riscv/index.ts';
import { Smmuv3 } from '../../target/smmuv3/index.ts';
import type { Target } from '../../target/target.ts';
import { VtdIommu } from '../../target/vtd/index.ts';
import type { PciFunction } from '../pci/function.ts';
import { AMD_REGISTER_BYTES, amdFunction, RISCV_VECTOR_BITS, riscvFunction } from '../units/index.ts';
import type { MappedBlock } from './physical-space.ts';

/** IOMMUs of test machines. */
export type UnitName = 'riscv' | 'vtd' | 'vtd-scalable' | 'amd' | 'smmuv3';

/** An IOMMU in a test machine. */
export interface TestUnit {
  readonly target: Target;
  /** Its registers, where the machine has a fixed place for them. */
  readonly block: MappedBlock | null;
  /** The PCI function that it is, or has. */
  readonly fn: PciFunction | null;
}

/** Where QEMU's machines have the registers. */
const AT = { vtd: 0xfed9_0000n, amd: 0xfed8_0000n, smmuv3: 0x0905_0000n } as const;

/** `endpoint`: the requester ID that the unit translates for. */
export function testUnit(name: UnitName, memory: GuestMemory, endpoint: number): TestUnit {
  switch (name) {
    case 'riscv': {
      const target = new RiscvIommu({ vectorBits: RISCV_VECTOR_BITS }, { memory });
      target.addEndpoint(endpoint);
      return { target, block: null, fn: riscvFunction(target) };
    }
    case 'vtd':
    case 'vtd-scalable': {
      const target = new VtdIommu({ scalableMode: name === 'vtd-scalable' }, { memory });
      target.addEndpoint(endpoint);
      return { target, block: { at: AT.vtd, bytes: target.registerBytes, registers: target }, fn: null };
    }
    case 'amd': {
      const target = new AmdIommu({ memory }, {});
      target.addEndpoint(endpoint);
      const fn = amdFunction(target, () => {});
      return { target, block: { at: AT.amd, bytes: AMD_REGISTER_BYTES, registers: target }, fn };
    }
    case 'smmuv3': {
      const target = new Smmuv3({ memory });
      target.addEndpoint(endpoint);
      return { target, block: { at: AT.smmuv3, bytes: target.registerBytes, registers: target }, fn: null };
    }
  }
}
