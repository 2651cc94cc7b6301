import { describe, expect, test } from 'vitest';
import { REPEATED } from '../../../../src/target/riscv/control/iotinval.ts';
import {
  COMMAND,
  IODIR_RESERVED,
  IOFENCE_RESERVED,
  IOTINVAL,
  IOTINVAL_RESERVED,
  Operation,
} from '../../../../src/target/riscv/spec/commands.ts';
import { EVERYTHING, fence, Guest, invalVma, Reg } from '../guest.ts';

const CMD_ILL = 1n << 10n;

test('the constants that the command queue repeats are those of spec/commands.ts', () => {
  const masked = ({ mask, shift }: { mask: number; shift: number }) => mask << shift;
  expect(REPEATED).toEqual({
    OPERATION_MASK: COMMAND.OPERATION.mask,
    IOTINVAL_VMA: Operation.IOTINVAL_VMA,
    AV: masked(IOTINVAL.AV),
    PSCID_SHIFT: IOTINVAL.PSCID.shift,
    PSCV: masked(IOTINVAL.PSCV),
    GV: masked(IOTINVAL.GV),
    NL: masked(IOTINVAL.NL),
    GSCID_SHIFT: IOTINVAL.GSCID.shift,
    GSCID_MASK: IOTINVAL.GSCID.mask,
    S: masked(IOTINVAL.S),
    ADDR_SHIFT: IOTINVAL.ADDR.low - 64,
    ADDR_HI_MASK: 2 ** (IOTINVAL.ADDR.width - (32 - (IOTINVAL.ADDR.low - 64))) - 1,
    RESERVED: Array.from(IOTINVAL_RESERVED),
  });
});

/** "A command is determined to be illegal if it uses a reserved encoding or if a reserved bit is set to 1." */
describe('illegal commands: the head stays, cmd_ill is set', () => {
  function legality(command: readonly [bigint, bigint], capabilities = EVERYTHING): boolean {
    const guest = new Guest({ capabilities });
    guest.start();
    guest.command(command);
    const illegal = (guest.iommu.read(Reg.cqcsr, 4) & CMD_ILL) !== 0n;
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(illegal ? 0n : 1n);
    return !illegal;
  }

  test.each([
    ['opcode 0', 0n],
    ['opcode 5, reserved', 5n],
    ['opcode 64, custom', 64n],
    ['IOTINVAL func3 2', 1n | (2n << 7n)],
    ['IOFENCE func3 1', 2n | (1n << 7n)],
    ['IODIR func3 2', 3n | (2n << 7n)],
    ['ATS func3 2', 4n | (2n << 7n)],
    ['IOTINVAL.GVMA with PSCV', 1n | (1n << 7n) | (1n << 32n)],
    ['IODIR.INVAL_DDT with PID', 3n | (1n << 12n)],
    ['IODIR.INVAL_PDT without DV', 3n | (1n << 7n)],
    ['IODIR.INVAL_DDT of a DID wider than ddtp.iommu_mode', 3n | (1n << 33n) | (64n << 40n)],
    ['IOFENCE.C with WSI where interrupts are messages', 2n | (1n << 11n)],
  ])('%s', (_, low) => {
    expect(legality([low, 0n])).toBe(false);
  });

  test.each([
    ['IOTINVAL with NL', [1n | (1n << 34n), 0n], 42n],
    ['IOTINVAL with S', [1n | (1n << 10n), 1n << 9n], 43n],
    ['ATS.PRGR', [4n | (1n << 7n), 0n], 25n],
    ['IODIR.INVAL_PDT with a PID of 20 bits', [3n | (1n << 7n) | (1n << 31n) | (1n << 33n), 0n], 40n],
  ] as const)('%s: unsupported without capabilities bit', (_, command, bit) => {
    expect(legality(command)).toBe(true);
    expect(legality(command, EVERYTHING & ~(1n << bit))).toBe(false);
  });

  test.each([
    [20, 0n],
    [17, 1n << 40n],
    [8, (1n << 40n) | (1n << 39n)],
  ])('IODIR.INVAL_PDT: a PID has %i bits without wider process directories', (width, without) => {
    const command = (pid: bigint): [bigint, bigint] => [3n | (1n << 7n) | (pid << 12n) | (1n << 33n), 0n];
    expect(legality(command((1n << BigInt(width)) - 1n), EVERYTHING & ~without)).toBe(true);
    if (width < 20) expect(legality(command(1n << BigInt(width)), EVERYTHING & ~without)).toBe(false);
  });

  test.each([
    ['IOTINVAL.VMA', 1n, IOTINVAL_RESERVED],
    ['IOFENCE.C', 2n, IOFENCE_RESERVED],
    ['IODIR.INVAL_DDT', 3n, IODIR_RESERVED],
  ] as const)('%s: each reserved bit', (_, low, reserved) => {
    expect(legality([low, 0n])).toBe(true);
    for (let bit = 0; bit < 128; bit++) {
      if (((reserved[bit >>> 5] >>> (bit & 31)) & 1) === 0) continue;
      const [first, second] = bit < 64 ? [low | (1n << BigInt(bit)), 0n] : [low, 1n << BigInt(bit - 64)];
      expect([bit, legality([first, second])]).toEqual([bit, false]);
    }
  });
});

/* Commands of one kind in a row take a shorter way; where they end, and what is refused among them, is the same. */
describe('IOTINVAL.VMA of a page of a process, in a row', () => {
  const usual = invalVma({ pscid: 5, pfn: 0x400 });

  test.each([0, 1, 3])('the head stands at the illegal one behind %i of them', (before) => {
    const wrong: [bigint, bigint][] = [[0n, 0n]];
    for (let bit = 0; bit < 128; bit++) {
      if (((IOTINVAL_RESERVED[bit >>> 5] >>> (bit & 31)) & 1) === 0) continue;
      wrong.push(bit < 64 ? [usual[0] | (1n << BigInt(bit)), usual[1]] : [usual[0], usual[1] | (1n << BigInt(bit - 64))]);
    }
    for (const command of wrong) {
      const guest = new Guest();
      guest.start();
      guest.command(...Array.from({ length: before }, () => usual), command, usual);
      expect([guest.iommu.read(Reg.cqh, 4), guest.iommu.read(Reg.cqcsr, 4) & CMD_ILL]).toEqual([BigInt(before), CMD_ILL]);
    }
  });

  test('others among them are done in their turn', () => {
    const guest = new Guest();
    guest.start();
    const { NL, S } = { NL: 1n << 34n, S: 1n << 9n };
    const others: [bigint, bigint][] = [fence(), invalVma({}), [usual[0] | NL, usual[1]], [usual[0], usual[1] | S]];
    guest.command(...others.flatMap((other) => [usual, other, usual]));
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(12n);
  });
});
