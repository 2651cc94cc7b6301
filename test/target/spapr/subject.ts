import { fc } from '@fast-check/vitest';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { H_PUT_TCE, H_PUT_TCE_INDIRECT, type SpaprIommu } from '../../../src/target/spapr/index.ts';
import type { TargetFixture, TargetSubject } from '../suite.ts';
import { bridges, TestMachine, unit } from './machine.ts';
import { buid, program, type Step } from './programs.ts';

class SpaprFixture implements TargetFixture<Step> {
  readonly target: SpaprIommu;
  readonly memory: GuestMemory;
  readonly endpoints = bridges.flatMap(({ endpoints }) => endpoints);
  readonly machine: TestMachine;

  constructor(like?: SpaprFixture) {
    this.machine = new TestMachine(like && { memory: like.memory });
    this.target = this.machine.iommu;
    this.memory = this.machine.memory;
  }

  run(step: Step): unknown {
    const { machine } = this;
    if (step.kind === 'call') {
      if (step.opcode === H_PUT_TCE_INDIRECT) machine.list(step.parameters[2], step.list);
      return [machine.call(step.opcode, ...step.parameters), machine.registers.u64[4]];
    }
    if (step.kind === 'create') return machine.rtas('ibm,create-pe-dma-window', [...unit(buid), step.pageLg2, step.windowLg2], 4);
    if (step.kind === 'remove') return machine.rtas('ibm,remove-pe-dma-window', [step.liobn], 1);
    return machine.rtas('ibm,reset-pe-dma-windows', unit(buid), 1);
  }
}

const register = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const hostile = fc.oneof(
  fc.tuple(fc.integer(), fc.array(register, { minLength: 4, maxLength: 4 })).map(([opcode, parameters]) => ({
    what: `hypercall ${opcode} ${parameters}`,
    act: (fixture: TargetFixture<Step>) => void (fixture as SpaprFixture).machine.call(opcode, ...parameters),
  })),
  fc
    .tuple(
      fc.constantFrom(
        'ibm,query-pe-dma-window' as const,
        'ibm,create-pe-dma-window' as const,
        'ibm,remove-pe-dma-window' as const,
        'ibm,reset-pe-dma-windows' as const,
      ),
      fc.array(fc.nat(0xffff_ffff), { maxLength: 8 }),
      fc.nat(8),
    )
    .map(([name, inputs, outputs]) => ({
      what: `${name} ${inputs}`,
      act: (fixture: TargetFixture<Step>) => void (fixture as SpaprFixture).machine.rtas(name, inputs, outputs),
    })),
);

export const spaprSubject: TargetSubject<Step> = {
  name: 'sPAPR',
  make: (like) => new SpaprFixture(like as SpaprFixture | undefined),
  step: program.map(([step]) => step),
  mapping: [{ kind: 'call', opcode: H_PUT_TCE, parameters: [0x80000000n, 0x5000n, 0x3003n, 0n], list: [] }],
  unmapping: [{ kind: 'call', opcode: H_PUT_TCE, parameters: [0x80000000n, 0x5000n, 0n, 0n], list: [] }],
  hostile,
  numRuns: 10,
};
