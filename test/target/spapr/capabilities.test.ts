import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CAPABILITIES } from '../../../src/target/spapr/capabilities.ts';
import { H_FUNCTION, H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE } from '../../../src/target/spapr/index.ts';
import { bridges, TestMachine, unit } from './machine.ts';

const DOCS = join(import.meta.dirname, '../../../docs/targets/spapr.md');

test('the table in docs/targets/spapr.md is capabilities.ts', () => {
  const rows = CAPABILITIES.map(({ name, section, value, reason }) => `| ${name} | ${section} | ${value ? 'yes' : 'no'} | ${reason} |`);
  expect(readFileSync(DOCS, 'utf8')).toContain(rows.join('\n'));
});

/** What a guest can see of each row. */
const seen: Record<string, (machine: TestMachine) => boolean> = {
  'hcall-tce': (machine) => [H_GET_TCE, H_PUT_TCE].every((opcode) => machine.call(opcode, 0n, 0n, 0n, 0n) !== H_FUNCTION),
  'hcall-multi-tce': (machine) => [H_PUT_TCE_INDIRECT, H_STUFF_TCE].every((opcode) => machine.call(opcode, 0n, 0n, 0n, 0n) !== H_FUNCTION),
  'ibm,ddw-applicable': (machine) => machine.rtas('ibm,query-pe-dma-window', unit(bridges[0].buid), 5).status === 0,
  'ibm,ddw-extensions 1: ibm,reset-pe-dma-windows': (machine) =>
    machine.rtas('ibm,reset-pe-dma-windows', unit(bridges[0].buid), 1).status === 0,
  'ibm,ddw-extensions 2: six outputs of the query': (machine) =>
    machine.rtas('ibm,query-pe-dma-window', unit(bridges[0].buid), 6).status === 0,
  'Multi-TCE-Table option': (machine) => machine.call(H_PUT_TCE_INDIRECT, 1n << 63n, 0n, 0n, 0n) !== H_FUNCTION,
  H_MIGRATE_DMA: (machine) => machine.rtas('ibm,query-pe-dma-window', unit(bridges[0].buid), 5).cells[4] !== 0,
};

test.each(CAPABILITIES.filter(({ name }) => name in seen).map(({ name, value }) => [name, value] as const))(
  '%s is there: %s',
  (name, value) => {
    expect(seen[name](new TestMachine())).toBe(value);
  },
);

test('a bridge without `ddw` has no dynamic windows', () => {
  expect(new TestMachine().rtas('ibm,query-pe-dma-window', unit(bridges[1].buid), 5).status).toBe(-3);
});
