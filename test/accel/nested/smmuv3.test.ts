import { describe, expect, test, vi } from 'vitest';
import { CommandQueue } from '../../../src/host/iommufd/tegra241.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { get } from '../../../src/target/fields.ts';
import { EVENT, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import type { Command } from '../../target/smmuv3/guest.ts';
import { randomGuests } from './random-guests.ts';
import { SYNC, tlbiAsid, tlbiPage } from './smmuv3-commands.ts';
import { BASE, DATA, STREAMS } from './smmuv3-machine.ts';
import { ASIDS, BYPASS, hardwares, kinds, Program, program, STAGE_1 } from './smmuv3-program.ts';

/* The nested path of an SMMUv3 guest: Arm IHI 0070, chapters 4 and 5, before a simulated SMMUv3; with and without a queue of the guest's own. */

const [FIRST] = STREAMS;
/** Behind all that the guest uses. */
const LONG_QUEUE = 0x1e_0000;

for (const path of Object.keys(hardwares) as (keyof typeof hardwares)[]) {
  randomGuests(`path ${path}, where an unmap is ${path === 'nested' ? 'a call' : 'none'}`, {
    steps: program,
    kinds,
    make: () => {
      const guest = new Program(path);
      expect(guest.smmu.machine.state.endpoints[FIRST]?.path).toBe(path);
      return guest;
    },
    cost: (calls, { do: what }) => {
      if (what === 'map' || what === 'unmap') expect(calls).toEqual(path === 'nested' ? { IOMMU_HWPT_INVALIDATE: 1 } : {});
    },
    runs: 30,
    failingRuns: 20,
  });
}

for (const path of Object.keys(hardwares) as (keyof typeof hardwares)[]) {
  describe(`path ${path}`, () => {
    test('one invalidation left out shows: the device reaches what was unmapped', () => {
      const guest = new Program(path);
      guest.tables[0].table.map(BASE, DATA, 4, READ_WRITE);
      guest.smmu.touch();
      guest.tables[0].table.unmap(BASE, 4);
      expect(() => guest.agrees()).toThrow();
      guest.smmu.guest.command(tlbiAsid(ASIDS[0]), SYNC);
      guest.agrees();
    });

    test('substreams are the hardware’s to walk: a descriptor that the guest changes needs nothing but its own CFGI_CD', () => {
      const guest = new Program(path);
      const { smmu } = guest;
      guest.tables[0].table.map(BASE, DATA, 1, READ_WRITE);
      guest.tables[1].table.map(BASE, DATA + 1, 1, READ_WRITE);
      smmu.setStream(FIRST, STAGE_1, 2);
      smmu.setContext(FIRST, guest.tables[1], ASIDS[1], 3);
      expect([smmu.hardware(0)[0], smmu.hardware(0, 3)[0], smmu.hardware(0, 2)[0]]).toEqual([`${DATA}/3`, `${DATA + 1}/3`, null]);
      smmu.kernel.devices[0].dmaRead(BigInt(BASE) << 12n, new Uint8Array(1), 3);
      smmu.calls();
      smmu.setContext(FIRST, guest.tables[0], ASIDS[0], 3);
      // Configuration is what a queue of the guest's does not take.
      expect(smmu.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
      expect(smmu.hardware(0, 3)).toEqual(smmu.software(0, 3));
      expect(smmu.hardware(0, 3)[0]).toBe(`${DATA}/3`);
    });

    test('the hardware’s faults are the guest’s own events, with its stream and substream', () => {
      const guest = new Program(path);
      const { smmu } = guest;
      smmu.setStream(FIRST, STAGE_1, 2);
      smmu.setContext(FIRST, guest.tables[0], ASIDS[0], 1);
      smmu.guest.events();
      expect(smmu.kernel.devices[0].dmaWrite(BigInt(BASE) << 12n, new Uint8Array(1), 1)).toBeLessThan(0);
      expect(smmu.guest.events()).toEqual([]);
      smmu.machine.poll();
      const [record, ...more] = smmu.guest.events();
      expect(more).toEqual([]);
      const fields = [RECORD.NUMBER, RECORD.STREAM, RECORD.SUBSTREAM, RECORD.SSV, RECORD.RNW].map((field) => get(record, field));
      expect(fields).toEqual([EVENT.F_TRANSLATION, FIRST, 1, 1, 0]);
      expect([record[4] >>> 0, record[5]]).toEqual([(BASE << 12) >>> 0, 0]);
      expect(smmu.machine.eventDescriptors.length).toBeGreaterThan(0);
    });
  });
}

describe('host calls', () => {
  /** Commands in a queue of 1,024 entries, which the guest has put in place of its own, and what they cost. */
  function cost(path: keyof typeof hardwares, commands: readonly Command[]): Record<string, number> {
    const { smmu } = new Program(path);
    const { guest } = smmu;
    guest.write(REG.CR0, 0b0101);
    guest.write64(REG.CMDQ_BASE, BigInt(LONG_QUEUE | 10));
    guest.write(REG.CMDQ_CONS, 0);
    guest.write(REG.CMDQ_PROD, 0);
    for (const [i, [low, high]] of [...commands, SYNC].entries()) {
      guest.store(LONG_QUEUE + 16 * i, low);
      guest.store(LONG_QUEUE + 16 * i + 8, high);
    }
    guest.write(REG.CR0, 0b1101);
    smmu.calls();
    guest.write(REG.CMDQ_PROD, commands.length + 1);
    expect(guest.read(REG.CMDQ_CONS)).toBe(commands.length + 1);
    return smmu.calls();
  }

  test('1,000 queued invalidations are one call; with a queue none', () => {
    const commands = Array.from({ length: 1000 }, (_, i) => tlbiPage(ASIDS[0], BASE + i));
    expect(cost('nested', commands)).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
    expect(cost('nested-queue', commands)).toEqual({});
  });

  test('the same stream table entry again is no allocation and no attach', () => {
    const { smmu } = new Program();
    smmu.calls();
    smmu.setStream(FIRST, STAGE_1);
    expect(smmu.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
  });
});

describe('a queue of the guest’s own', () => {
  test('that stops at an error is taken up by calls, and nothing is lost', () => {
    const guest = new Program('nested-queue');
    const { smmu } = guest;
    guest.tables[0].table.map(BASE, DATA, 8, READ_WRITE);
    smmu.touch();
    guest.tables[0].table.unmap(BASE, 8);
    // The hardware finds a command that it does not know in the place of one of the guest's.
    const { add } = CommandQueue.prototype;
    let added = 0;
    const spy = vi.spyOn(CommandQueue.prototype, 'add').mockImplementation(function (this: CommandQueue, ...words) {
      return added++ === 2 ? add.call(this, 0xff, 0, 0, 0) : add.apply(this, words);
    });
    smmu.calls();
    smmu.guest.command(...Array.from({ length: 8 }, (_, i) => tlbiPage(ASIDS[0], BASE + i)), SYNC);
    spy.mockRestore();
    expect(smmu.calls()['IOMMU_HWPT_INVALIDATE']).toBeGreaterThan(0);
    guest.agrees();
    guest.run({ do: 'map', table: 0, page: 0, to: DATA, pages: 4, permission: READ_WRITE, name: 'each' });
    expect(smmu.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
    guest.agrees();
  });

  test('that does not go on is waited for within a bound', () => {
    const guest = new Program('nested-queue');
    const { smmu } = guest;
    guest.tables[0].table.map(BASE, DATA, 8, READ_WRITE);
    smmu.touch();
    guest.tables[0].table.unmap(BASE, 8);
    smmu.kernel.relax = () => {};
    smmu.calls();
    smmu.guest.command(...Array.from({ length: 8 }, (_, i) => tlbiPage(ASIDS[0], BASE + i)), SYNC);
    expect(smmu.calls()['IOMMU_HWPT_INVALIDATE']).toBe(1);
    guest.agrees();
  });

  test('lies where devices can read it and not write it', () => {
    const { smmu } = new Program('nested-queue');
    smmu.setStream(FIRST, BYPASS);
    const top = 2n ** 48n - 4096n;
    expect(smmu.kernel.devices[0].dmaRead(top, new Uint8Array(16))).toBe(0);
    expect(smmu.kernel.devices[0].dmaWrite(top, new Uint8Array(16))).toBeLessThan(0);
  });
});
