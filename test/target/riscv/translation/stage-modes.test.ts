import { describe, expect, test } from 'vitest';
import type { Registers } from '../../../../src/target/riscv/control/registers.ts';
import { Cap } from '../../../../src/target/riscv/spec/registers.ts';
import { firstStageMode, secondStageMode } from '../../../../src/target/riscv/translation/stage-modes.ts';

/* "Encodings of iosatp.MODE field" (by DC.tc.SXL) and "Encodings of iohgatp.MODE field" (by fctl.GXL), as far as capabilities has them. */

const all = [Cap.sv32, Cap.sv39, Cap.sv48, Cap.sv57, Cap.sv32x4, Cap.sv39x4, Cap.sv48x4, Cap.sv57x4];

function registers(caps: readonly number[], guest32 = false): Registers {
  return { can: (cap: number) => caps.includes(cap), guest32 } as unknown as Registers;
}

const MODES = Array.from({ length: 16 }, (_, mode) => mode);
/** Which encodings are of a format. */
const known = (of: (mode: number) => string | null | undefined) =>
  Object.fromEntries(MODES.flatMap((mode) => (of(mode) === undefined ? [] : [[mode, of(mode)]])));

describe('table formats', () => {
  test('of the first stage: Sv39, Sv48 and Sv57, or Sv32 with SXL', () => {
    const iommu = registers(all);
    expect(known((mode) => firstStageMode(iommu, mode, false))).toEqual({ 0: null, 8: 'sv39', 9: 'sv48', 10: 'sv57' });
    expect(known((mode) => firstStageMode(iommu, mode, true))).toEqual({ 0: null, 8: 'sv32' });
  });

  test('of the second stage: Sv39x4, Sv48x4 and Sv57x4, or Sv32x4 with GXL', () => {
    expect(known((mode) => secondStageMode(registers(all), mode))).toEqual({ 0: null, 8: 'sv39', 9: 'sv48', 10: 'sv57' });
    expect(known((mode) => secondStageMode(registers(all, true), mode))).toEqual({ 0: null, 8: 'sv32' });
  });

  test.each([
    ['sv32', Cap.sv32, 8, true],
    ['sv39', Cap.sv39, 8, false],
    ['sv48', Cap.sv48, 9, false],
    ['sv57', Cap.sv57, 10, false],
  ] as const)('%s is one where its capability is', (format, cap, mode, sxl) => {
    expect(firstStageMode(registers([cap]), mode, sxl)).toBe(format);
    expect(firstStageMode(registers(all.filter((other) => other !== cap)), mode, sxl)).toBeUndefined();
  });

  test.each([
    ['sv32', Cap.sv32x4, 8, true],
    ['sv39', Cap.sv39x4, 8, false],
    ['sv48', Cap.sv48x4, 9, false],
    ['sv57', Cap.sv57x4, 10, false],
  ] as const)('%sx4 is one where its capability is', (format, cap, mode, guest32) => {
    expect(secondStageMode(registers([cap], guest32), mode)).toBe(format);
    expect(
      secondStageMode(
        registers(
          all.filter((other) => other !== cap),
          guest32,
        ),
        mode,
      ),
    ).toBeUndefined();
  });
});
