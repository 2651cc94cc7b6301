import { expect, it } from 'vitest';
import { GuestMemory, READ } from '../../src/memory/index.ts';
import { createTable, type PageTable, type TableConfigs, type TableFormat, tableFormats } from '../../src/pagetable/index.ts';

const configs: { [Format in TableFormat]: TableConfigs[Format] } = {
  'x86-64': { levels: 4, root: 0 },
  'vtd-second-stage': { levels: 4, root: 0 },
  'amd-v1': { levels: 4, root: 0 },
  arm: { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 48, root: 0n },
  riscv: { mode: 'sv48', root: 0 },
  s390: { root: 0, levels: 3 },
  tce: { root: 0, levels: 1, indexBits: 9, pageLg2: 16 },
};

it.each(tableFormats)('%s: an empty table by name', (format) => {
  const create = createTable as (format: TableFormat, memory: GuestMemory, config: unknown) => PageTable;
  const table = create(format, GuestMemory.ofBytes(0x1_0000), configs[format]);
  expect(table.description.format.startsWith(format)).toBe(true);
  expect(table.walk(0, 0, READ)).toBeLessThan(0);
});

it('knows no other', () => {
  expect(() => createTable('ept' as TableFormat, GuestMemory.ofBytes(4096), configs['amd-v1'])).toThrow(
    /no table format ept; there are x86-64/,
  );
});
