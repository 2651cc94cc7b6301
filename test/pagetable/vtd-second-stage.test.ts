import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { testFormat } from './suite.ts';
import { type VtdVariant, vtdRules } from './vtd-second-stage-rules.ts';

const usual: VtdVariant = {
  levels: 4,
  outputBits: 52,
  pages2M: true,
  pages1G: true,
  snoopControl: true,
  accessedDirty: false,
  execute: false,
};
const variants: [string, Partial<VtdVariant>][] = [
  [
    'VT-d second stage, 3 levels, 39 bits of output, no large pages, no snoop control',
    { levels: 3, outputBits: 39, pages2M: false, pages1G: false, snoopControl: false },
  ],
  ['VT-d second stage, 4 levels', {}],
  ['VT-d second stage, 4 levels, accessed and dirty, execute', { accessedDirty: true, execute: true }],
  ['VT-d second stage, 5 levels, 46 bits of output, 2 MiB pages only', { levels: 5, outputBits: 46, pages1G: false }],
];
for (const [name, variant] of variants) {
  const config = { ...usual, ...variant };
  testFormat({
    name,
    rules: vtdRules(config),
    create: (memory, root, allocator) => new VtdSecondStageTable(memory, { ...config, root, allocator }),
  });
}
