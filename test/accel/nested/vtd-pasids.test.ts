import { describe, expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { DMA_PENDING } from '../../../src/host/sim/index.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { contextDevice, pasidPages, pasidSelective, Reg } from '../../target/vtd/guest.ts';
import { BASE, DATA, DEVICES, VtdMachine } from './vtd-machine.ts';

/* PASIDs of a VT-d guest, each with a first stage of its own on the hardware: VT-d D51397-018 (5.10), 6.5.2 and 9.6. */

const [DEVICE] = DEVICES;
const [ONE, OTHER] = [5, 6];
const DOMAIN = 9;
const REQUESTS = 12;

/** A device whose own requests have a first stage, and two PASIDs that are not present. */
function start(pageRequests = false, pasidLog2 = 8) {
  const vtd = new VtdMachine({ devices: 1, pageRequests, pasidLog2 });
  const { guest } = vtd;
  if (pageRequests) guest.setScalableContext(DEVICE, 1n << 4n, BigInt(DEVICE));
  const stages = [0, 1, 2].map(() => vtd.newStage());
  for (const [i, { table }] of stages.entries()) table.map(BASE, DATA + i, 1, READ_WRITE);
  guest.setPasid(DEVICE, { pgtt: 1, did: 8, first: stages[0].root });
  guest.iommu.write(Reg.pqa, 8, BigInt(REQUESTS) << 12n);
  guest.start();
  vtd.submit(contextDevice(DEVICE), pasidSelective(0, DEVICE));
  vtd.calls();
  /** The first stage of a PASID; null: its entry is not present. */
  const tell = (pasid: number, stage: 1 | 2 | null) => {
    guest.setPasid(pasid, stage === null ? null : { pgtt: 1, did: DOMAIN, first: stages[stage].root });
    vtd.submit(pasidSelective(0, pasid));
  };
  /** Guest page that a request with the PASID reaches; null: none. */
  const reached = (pasid: number, page = BASE) => {
    const code = vtd.sim(0).dmaWrite(BigInt(page) << 12n, new Uint8Array(1), pasid);
    return code < 0 ? null : vtd.sim(0).hostPfn(page, READ_WRITE, pasid) - vtd.ramPfn;
  };
  const state = (pasid: number) => vtd.machine.state.processes?.[`${DEVICE}/${pasid}`];
  return { vtd, guest, stages, tell, reached, state };
}

describe('a PASID of a VT-d guest', () => {
  test('is nested beside its device, and is moved and blocked by its own entry', () => {
    const { vtd, tell, reached, state } = start();
    expect([reached(-1), reached(ONE)]).toEqual([DATA, null]);
    tell(ONE, 1);
    tell(OTHER, 2);
    expect([reached(-1), reached(ONE), reached(OTHER)]).toEqual([DATA, DATA + 1, DATA + 2]);
    expect([state(ONE)?.path, state(OTHER)?.path, vtd.machine.state.endpoints[DEVICE].path]).toEqual(['nested', 'nested', 'nested']);
    tell(ONE, 2);
    tell(OTHER, null);
    expect([reached(ONE), reached(OTHER), state(OTHER)]).toEqual([DATA + 2, null, undefined]);
  });

  test('costs an allocation and an attach; its maps cost nothing, its invalidations one call', () => {
    const { vtd, stages, tell, reached } = start();
    tell(ONE, 1);
    // The stage is one of the domain's: another PASID takes it as it is.
    expect(vtd.calls()).toMatchObject({ IOMMU_HWPT_ALLOC: 1, VFIO_DEVICE_ATTACH_IOMMUFD_PT: 1 });
    const { table } = stages[1];
    table.map(BASE + 1, DATA + 9, 1, READ_WRITE);
    expect([reached(ONE, BASE + 1), vtd.calls()]).toEqual([DATA + 9, {}]);
    table.unmap(BASE, 2);
    vtd.submit(pasidPages(DOMAIN, ONE, BASE), pasidPages(DOMAIN, ONE, BASE + 1));
    expect([reached(ONE), reached(ONE, BASE + 1), vtd.calls()]).toEqual([null, null, { IOMMU_HWPT_INVALIDATE: 1 }]);
  });

  test('that passes through reaches guest RAM as it is', () => {
    const { vtd, guest, reached, state } = start();
    guest.setPasid(ONE, { pgtt: 4, did: DOMAIN });
    vtd.submit(pasidSelective(0, ONE));
    expect([reached(ONE, DATA + 3), reached(ONE, BASE), state(ONE)?.path]).toEqual([DATA + 3, null, 'nested']);
  });

  test('that the hardware does not forget for is kept at nothing until it has', () => {
    const { vtd, stages, tell, reached } = start();
    tell(ONE, 1);
    vtd.kernel.hooks.fail({ kind: 'IOMMU_HWPT_INVALIDATE', nth: 1, errno: errno.EIO, times: Number.POSITIVE_INFINITY });
    stages[1].table.unmap(BASE, 1);
    vtd.submit(pasidPages(DOMAIN, ONE, BASE));
    expect([reached(ONE), reached(-1)]).toEqual([null, DATA]);
    vtd.kernel.hooks.reset();
    stages[1].table.map(BASE, DATA + 7, 1, READ_WRITE);
    vtd.submit(pasidPages(DOMAIN, ONE, BASE));
    expect(reached(ONE)).toBe(DATA + 7);
  });

  test('is refused by name where the host knows of no PASIDs', () => {
    const { tell, reached, state } = start(false, 0);
    tell(ONE, 1);
    expect([reached(ONE), reached(-1), state(ONE)?.path]).toEqual([null, DATA, 'blocked']);
    expect(state(ONE)?.refused[0].reason).toMatch(/takes no PASIDs/);
  });

  test('goes to other paths and back while it runs, with its device', () => {
    const { vtd, tell, reached, state } = start();
    tell(ONE, 1);
    for (const path of ['nested', 'auto']) {
      vtd.machine.changePath(path);
      expect([reached(ONE), state(ONE)?.path]).toEqual([DATA + 1, 'nested']);
    }
  });

  test('asks its guest for pages, and has the answer; one that leaves has it from the kernel, and the others wait on', () => {
    const { vtd, guest, stages, tell, reached } = start(true);
    tell(ONE, 1);
    tell(OTHER, 2);
    const device = vtd.sim(0);
    const ask = (pasid: number) => device.dmaWrite(BigInt(BASE + 4) << 12n, new Uint8Array(1), pasid);
    expect([ask(ONE), ask(OTHER)]).toEqual([DMA_PENDING, DMA_PENDING]);
    vtd.machine.poll();
    // Requester, PASID and its presence (7.4.1.1).
    const asked = [0, 1].map((i) => guest.load(REQUESTS * 4096 + i * 32));
    expect(asked.map((word) => [(word >> 32n) & 0xfffffn, (word >> 8n) & 1n])).toEqual([
      [BigInt(ONE), 1n],
      [BigInt(OTHER), 1n],
    ]);
    tell(OTHER, null);
    expect(device.responses).toEqual([1]);
    stages[1].table.map(BASE + 4, DATA + 20, 1, READ_WRITE);
    const group = (guest.load(REQUESTS * 4096 + 8) >> 3n) & 0x1ffn;
    // Page group response with a PASID (7.6.1).
    vtd.submit(pasidPages(DOMAIN, ONE, BASE + 4), [9n | (1n << 4n) | (BigInt(DEVICE) << 16n) | (BigInt(ONE) << 32n), group << 3n]);
    expect([device.responses, reached(ONE, BASE + 4)]).toEqual([[1, 0], DATA + 20]);
  });
});
