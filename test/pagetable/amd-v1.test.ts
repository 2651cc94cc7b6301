import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { type AmdVariant, amdRules } from './amd-v1-rules.ts';
import { testFormat } from './suite.ts';

const variants: AmdVariant[] = [
  { levels: 1, accessedDirty: 'none' },
  { levels: 2, accessedDirty: 'both' },
  { levels: 3, accessedDirty: 'none' },
  { levels: 4, accessedDirty: 'accessed' },
  { levels: 5, accessedDirty: 'none' },
  { levels: 6, accessedDirty: 'both' },
];
for (const config of variants) {
  testFormat({
    name: `AMD v1, ${config.levels} levels, ${config.accessedDirty} of accessed and dirty`,
    rules: amdRules(config),
    create: (memory, root, allocator) => new AmdV1Table(memory, { ...config, root, allocator }),
  });
}
