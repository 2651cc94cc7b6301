import { describe, expect, test } from 'vitest';
import { CERROR, OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { type Command, Guest, sync } from './guest.ts';

/* CMD_ATC_INV (4.5.1): what a device is told to forget. */

const STREAM = 8;
const SSV = 1n << 11n;
const GLOBAL = 1n << 9n;
const invalidate = (bits: bigint, address: bigint): Command => [BigInt(OPCODE.ATC_INV) | bits | (BigInt(STREAM) << 32n), address];
const substream = (number: bigint) => SSV | (number << 12n);

describe('CMD_ATC_INV', () => {
  test.each<[string, Command, unknown]>([
    ['a page', invalidate(0n, 0x1234_5000n), { pasid: null, global: false, firstPage: 0x1_2345, pages: 1 }],
    [
      'a span of 2^3 pages, aligned to its size',
      invalidate(0n, 0x1234_5003n),
      { pasid: null, global: false, firstPage: 0x1_2340, pages: 8 },
    ],
    ['all', invalidate(0n, 0xffff_ffff_ffff_f034n), { pasid: null, global: false, firstPage: 0, pages: 2 ** 52 }],
    ['the top page', invalidate(0n, 0xffff_ffff_ffff_f000n), { pasid: null, global: false, firstPage: 2 ** 52 - 1, pages: 1 }],
    ['of a PASID', invalidate(substream(0xf_4321n), 0x5000n), { pasid: 0xf_4321, global: false, firstPage: 5, pages: 1 }],
    ['of a PASID, global', invalidate(substream(1n) | GLOBAL, 0x5000n), { pasid: 1, global: true, firstPage: 5, pages: 1 }],
    ['Global is ignored without SSV', invalidate(GLOBAL | (7n << 12n), 0x5000n), { pasid: null, global: false, firstPage: 5, pages: 1 }],
  ])('%s', (_, command, told) => {
    const guest = new Guest().start();
    guest.command(command);
    expect(guest.invalidations).toEqual([{ stream: STREAM, ...(told as object) }]);
  });

  test('a device that does not answer: CERROR_ATC_INV_SYNC at the next CMD_SYNC, and nothing is signalled (3.9.1.4, 4.7.3)', () => {
    const guest = new Guest().start();
    guest.devicesAnswer = false;
    guest.command(invalidate(0n, 0x5000n));
    expect([guest.error, guest.read(REG.CMDQ_CONS)]).toEqual([0, 1]);
    // Saved and loaded in between.
    const state = structuredClone(guest.smmu.save());
    guest.smmu.reset();
    guest.smmu.load(state);
    guest.devicesAnswer = true;
    guest.command(invalidate(0n, 0x6000n), sync(1n << 12n));
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff, guest.interrupts]).toEqual([CERROR.ATC_INV_SYNC, 2, []]);
    // Acknowledged, the command is fetched again, and what cannot be completed is no longer waited for.
    guest.write(REG.GERRORN, guest.read(REG.GERROR));
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff, guest.interrupts]).toEqual([0, 3, ['sync']]);
  });

  test('nothing of it after a reset', () => {
    const guest = new Guest().start();
    guest.devicesAnswer = false;
    guest.command(invalidate(0n, 0x5000n));
    guest.smmu.reset();
    guest.start().command(sync());
    expect(guest.error).toBe(0);
  });

  test('ignored while the SMMU is off; a span of more than everything is CERROR_ILL', () => {
    const guest = new Guest().start(0b1000);
    guest.command(invalidate(0n, 0x5000n));
    expect([guest.invalidations, guest.error, guest.read(REG.CMDQ_CONS)]).toEqual([[], 0, 1]);
    guest.command(invalidate(0n, 0x5035n));
    expect([guest.invalidations, guest.error]).toEqual([[], CERROR.ILL]);
  });
});
