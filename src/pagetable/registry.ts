import { type AmdV1Config, AmdV1Table } from './amd-v1.ts';
import { ArmTable, type ArmTableConfig } from './arm.ts';
import type { PageTable, TableMemory } from './page-table.ts';
import { RiscvTable, type RiscvTableConfig } from './riscv.ts';
import { S390Table, type S390TableConfig } from './s390.ts';
import { TceTable, type TceTableConfig } from './tce.ts';
import { type VtdSecondStageConfig, VtdSecondStageTable } from './vtd-second-stage.ts';
import { type X86Config, X86Table } from './x86.ts';

/** The formats by name, and what each is configured with. VT-d's first stage and AMD's v2 tables are `x86-64`. */
export interface TableConfigs {
  'x86-64': X86Config;
  'vtd-second-stage': VtdSecondStageConfig;
  'amd-v1': AmdV1Config;
  arm: ArmTableConfig;
  riscv: Omit<RiscvTableConfig, 'memory'>;
  s390: S390TableConfig;
  tce: TceTableConfig;
}
export type TableFormat = keyof TableConfigs;

type Makers = { readonly [Format in TableFormat]: (memory: TableMemory, config: TableConfigs[Format]) => PageTable };

const makers: Makers = {
  'x86-64': (memory, config) => new X86Table(memory, config),
  'vtd-second-stage': (memory, config) => new VtdSecondStageTable(memory, config),
  'amd-v1': (memory, config) => new AmdV1Table(memory, config),
  arm: (memory, config) => new ArmTable(memory, config),
  riscv: (memory, config) => new RiscvTable({ ...config, memory }),
  s390: (memory, config) => new S390Table(memory, config),
  tce: (memory, config) => new TceTable(memory, config),
};

export const tableFormats: readonly TableFormat[] = Object.keys(makers) as TableFormat[];

/** A table of a format that is known by name only. @throws RangeError for a configuration that the format does not have. */
export function createTable<Format extends TableFormat>(format: Format, memory: TableMemory, config: TableConfigs[Format]): PageTable {
  if (!Object.hasOwn(makers, format))
    throw new RangeError(`createTable: no table format ${String(format)}; there are ${tableFormats.join(', ')}`);
  return makers[format](memory, config);
}
