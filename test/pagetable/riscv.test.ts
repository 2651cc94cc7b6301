import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { type RiscvVariant, riscvRules } from './riscv-rules.ts';
import { testFormat } from './suite.ts';

const usual: RiscvVariant = {
  mode: 'sv39',
  secondStage: false,
  bigEndian: false,
  svpbmt: true,
  svrsw60t59b: false,
  updateAccessedDirty: true,
  sum: false,
};

const variants: [string, Partial<RiscvVariant>][] = [
  ['RISC-V Sv32', { mode: 'sv32' }],
  ['RISC-V Sv32x4, big-endian, A and D clear are faults', { mode: 'sv32', secondStage: true, bigEndian: true, updateAccessedDirty: false }],
  ['RISC-V Sv39', {}],
  ['RISC-V Sv39x4, Svrsw60t59b', { secondStage: true, svrsw60t59b: true }],
  ['RISC-V Sv48, big-endian, SUM', { mode: 'sv48', bigEndian: true, sum: true }],
  ['RISC-V Sv48x4, A and D clear are faults', { mode: 'sv48', secondStage: true, updateAccessedDirty: false }],
  ['RISC-V Sv57, no Svpbmt, Svrsw60t59b', { mode: 'sv57', svpbmt: false, svrsw60t59b: true }],
  ['RISC-V Sv57x4, big-endian', { mode: 'sv57', secondStage: true, bigEndian: true }],
];

for (const [name, variant] of variants) {
  const config = { ...usual, ...variant };
  testFormat({
    name,
    rules: riscvRules(config),
    create: (memory, root, allocator) => new RiscvTable({ ...config, memory, root, allocator }),
  });
}
