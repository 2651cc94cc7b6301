import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../src/memory/access.ts';
import { FAULT_BASE } from '../../../src/target/fault-codes.ts';
import type { Field, WideField } from '../../../src/target/fields.ts';
import { INTERRUPT_IN_MEMORY } from '../../../src/target/riscv/index.ts';
import * as commands from '../../../src/target/riscv/spec/commands.ts';
import * as deviceContext from '../../../src/target/riscv/spec/device-context.ts';
import * as msi from '../../../src/target/riscv/spec/msi-pte.ts';
import * as processContext from '../../../src/target/riscv/spec/process-context.ts';
import * as records from '../../../src/target/riscv/spec/records.ts';
import * as registers from '../../../src/target/riscv/spec/registers.ts';
import { REPEATED } from '../../../src/target/riscv/translation/translator.ts';

function bitsOf(field: Field | WideField): number[] {
  const [low, width] = 'mask' in field ? [32 * field.word + field.shift, 32 - Math.clz32(field.mask)] : [field.low, field.width];
  return Array.from({ length: width }, (_, i) => low + i);
}

function isStructure(value: unknown): value is Record<string, Field | WideField> {
  const fields = Object.values(value as object);
  return fields.length > 0 && fields.every((field) => typeof field === 'object' && ('mask' in field || 'width' in field));
}

const structures = [commands, deviceContext, msi, processContext, records, registers].flatMap((file) =>
  Object.entries(file).flatMap(([name, value]) => (typeof value === 'object' && isStructure(value) ? ([[name, value]] as const) : [])),
);

describe('the fields of a structure lie beside each other', () => {
  test.each(structures)('%s', (name, structure) => {
    const taken = new Map<number, string>();
    for (const [field, place] of Object.entries(structure)) {
      // COMMAND.OPERATION is OPCODE and FUNC3.
      if (name === 'COMMAND' && field === 'OPERATION') continue;
      for (const bit of bitsOf(place)) {
        expect([field, bit, taken.get(bit)]).toEqual([field, bit, undefined]);
        taken.set(bit, field);
      }
    }
  });
});

describe('the masks of registers are their fields', () => {
  test('ddtp', () => {
    expect(registers.DDTP_MODE).toBe(registers.DDTP_FIELDS.MODE.mask << registers.DDTP_FIELDS.MODE.shift);
    expect(registers.DDTP_BUSY).toBe(1 << registers.DDTP_FIELDS.BUSY.shift);
  });

  test('OF of iohpmevt and iohpmcycles', () => {
    const { word, shift } = registers.IOHPMEVT_FIELDS.OF;
    expect([word, 1 << shift]).toEqual([1, registers.OVERFLOW]);
  });

  test('causes are the places of their bits in ipsr and of their fields in icvec', () => {
    expect(Object.values(registers.ICVEC_FIELDS).map(({ shift }) => shift / 4)).toEqual(Object.values(registers.Interrupt));
  });
});

test('the constants that the translator repeats are those of src/memory/access.ts, and its answer that of INTERRUPT_IN_MEMORY', () => {
  expect(REPEATED).toEqual({
    WANTED: READ | WRITE | EXECUTE,
    AS_SUPERVISOR: PRIVILEGED,
    IN_MEMORY: -INTERRUPT_IN_MEMORY - FAULT_BASE.riscv,
  });
});
