import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../../src/accel/store-watch.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { cfgiCd, SYNC } from './smmuv3-commands.ts';
import { BASE, DATA, SmmuMachine, STREAMS } from './smmuv3-machine.ts';

/* Substreams of an SMMUv3 guest (IHI 0070, 3.9, 4.3 and 5.4): the hardware's to walk where the path is nested, and attached for themselves elsewhere. */

const [STREAM] = STREAMS;
const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';

/** A stream with 4 descriptors, of which substreams 0, 1 and 2 have tables; requests without one go by substream 0. */
function start() {
  const smmu = new SmmuMachine({ watch: new StoreWatch() });
  const tables = [0, 1, 2].map((i) => {
    const table = smmu.guest.table();
    table.table.map(BASE, DATA + i, 1, READ_WRITE);
    return table;
  });
  const tell = (substream: number) => smmu.setContext(STREAM, tables[substream], 10 + substream, substream);
  const reached = (substream: number) => {
    const [device] = smmu.kernel.devices;
    const code = device.dmaRead(BigInt(BASE) << 12n, new Uint8Array(1), substream);
    return code < 0 ? null : device.hostPfn(BASE, READ_WRITE, substream) - smmu.ramPfn;
  };
  const state = (substream: number) => smmu.machine.state.processes?.[`${STREAM}/${substream}`];
  return { smmu, tell, reached, state };
}

describe('a substream', () => {
  test('of a nested stream is not attached again, and the state says who serves it', () => {
    const { smmu, tell, reached, state } = start();
    for (const substream of [0, 1]) tell(substream);
    smmu.setStream(STREAM, 5, 2);
    expect(smmu.machine.state.endpoints[STREAM].path).toBe('nested');
    smmu.kernel.hooks.counts.clear();
    tell(2);
    expect([-1, 1, 2, 3].map(reached)).toEqual([DATA, DATA + 1, DATA + 2, null]);
    expect([state(1)?.path, state(2)?.path, state(3)]).toEqual(['nested', 'nested', undefined]);
    expect(smmu.kernel.hooks.counts.get(ATTACH) ?? 0).toBe(0);
    smmu.guest.setContext(1, { V: 0 }, smmu.contexts(STREAM));
    smmu.guest.command(cfgiCd(STREAM, 1), SYNC);
    expect([reached(1), reached(2), state(1)]).toEqual([null, DATA + 2, undefined]);
  });

  test('is attached for itself where its stream is shadowed, and the hardware’s again where it nests', () => {
    const { smmu, tell, reached, state } = start();
    for (const substream of [0, 1, 2]) tell(substream);
    smmu.setStream(STREAM, 5, 2);
    for (const [path, served] of [
      ['shadow', 'shadow, watched'],
      ['nested', 'nested'],
      ['shadow', 'shadow, watched'],
      ['auto', 'nested'],
    ] as const) {
      smmu.machine.changePath(path);
      expect([-1, 1, 2, 3].map(reached)).toEqual([DATA, DATA + 1, DATA + 2, null]);
      expect([state(1)?.path, state(2)?.path]).toEqual([served, served]);
    }
    smmu.machine.changePath('user-owned');
    expect([-1, 1, 2].map(reached)).toEqual([DATA, null, null]);
    expect(state(1)).toMatchObject({ path: 'blocked', refused: [{ reason: expect.stringMatching(/takes no PASIDs/) }] });
    smmu.setStream(STREAM, 0);
    expect([-1, 1, 2].map(reached)).toEqual([null, null, null]);
    expect(smmu.machine.state.processes).toBeUndefined();
  });
});
