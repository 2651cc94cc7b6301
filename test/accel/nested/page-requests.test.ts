import { describe, expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { contextDevice, pasidPages, pasidSelective, Reg } from '../../target/vtd/guest.ts';
import { BASE, DATA, DEVICES, VtdMachine } from './vtd-machine.ts';

/* Page requests of devices behind a first stage of the guest's: VT-d D51397-018 (5.10), 7.4 to 7.6; iommufd's fault queue. */

const [DEVICE] = DEVICES;
const REQUESTS = 12;
const IOVA = BigInt(BASE) << 12n;
/** Response codes of struct iommu_hwpt_page_response. */
const [SUCCESS, INVALID] = [0, 1];

function start(pageRequests = true) {
  const vtd = new VtdMachine({ devices: 1, pageRequests: true });
  const { guest } = vtd;
  // PRE of the context entry (9.4).
  guest.setScalableContext(DEVICE, pageRequests ? 1n << 4n : 0n, BigInt(DEVICE));
  const { root, table } = vtd.newStage();
  guest.setPasid(DEVICE, { pgtt: 1, did: 8, first: root });
  guest.iommu.write(Reg.pqa, 8, BigInt(REQUESTS) << 12n);
  guest.start();
  vtd.submit(contextDevice(DEVICE), pasidSelective(0, DEVICE));
  return { vtd, guest, table, device: vtd.sim(0) };
}

/** Page group response (7.6.1): type 9, requester; group; code. */
const response = (group: bigint, code: bigint) => [9n | (code << 12n) | (BigInt(DEVICE) << 16n), group << 3n];

describe('a device that asks for a page', () => {
  test('has it when the guest has mapped it and said so', () => {
    const { vtd, guest, table, device } = start();
    expect(vtd.machine.state.endpoints[DEVICE]?.path).toBe('nested');
    expect(device.dmaWrite(IOVA, new Uint8Array(1))).toBeLessThan(0);
    expect(device.responses).toEqual([]);
    expect(vtd.machine.eventDescriptors.length).toBe(1);
    vtd.machine.poll();
    expect(guest.iommu.read(Reg.pqt, 8)).toBe(32n);
    // Requester; write, last, address (7.4.1.1).
    expect(guest.load(REQUESTS * 4096)).toBe((BigInt(DEVICE) << 16n) | 1n);
    const asked = guest.load(REQUESTS * 4096 + 8);
    expect(asked & ~0xff8n).toBe(IOVA | 6n);
    table.map(BASE, DATA, 1, READ_WRITE);
    vtd.submit(pasidPages(8, DEVICE, BASE), response((asked >> 3n) & 0x1ffn, 0n));
    expect(device.responses).toEqual([SUCCESS]);
    expect(device.dmaWrite(IOVA, new Uint8Array(1))).toBe(0);
  });

  test('is told when the guest refuses', () => {
    const { vtd, guest, device } = start();
    device.dmaWrite(IOVA, new Uint8Array(1));
    vtd.machine.poll();
    vtd.submit(response((guest.load(REQUESTS * 4096 + 8) >> 3n) & 0x1ffn, 1n));
    expect(device.responses).toEqual([INVALID]);
  });

  test('is told at once where the guest takes no requests, and the guest has a fault (SCT.8)', () => {
    const { vtd, guest, device } = start(false);
    device.dmaWrite(IOVA, new Uint8Array(1));
    vtd.machine.poll();
    expect(device.responses).toEqual([INVALID]);
    expect(guest.faults().length).toBe(1);
  });

  test('is told when it leaves the stage, and the guest’s late answer is nobody else’s', () => {
    const { vtd, guest, device } = start();
    device.dmaWrite(IOVA, new Uint8Array(1));
    vtd.machine.poll();
    guest.setPasid(DEVICE, null);
    vtd.submit(pasidSelective(0, DEVICE));
    expect(device.responses).toEqual([INVALID]);
    vtd.submit(response((guest.load(REQUESTS * 4096 + 8) >> 3n) & 0x1ffn, 0n));
    expect(device.responses).toEqual([INVALID]);
  });

  test('but cannot be attached as one that does is attached without: it faults where the guest has mapped nothing', () => {
    const vtd = new VtdMachine({ devices: 1, pageRequests: true });
    const { guest } = vtd;
    guest.setScalableContext(DEVICE, 1n << 4n, BigInt(DEVICE));
    const { root, table } = vtd.newStage();
    guest.setPasid(DEVICE, { pgtt: 1, did: 8, first: root });
    vtd.kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 1, errno: errno.EINVAL });
    guest.start();
    vtd.submit(contextDevice(DEVICE), pasidSelective(0, DEVICE));
    expect(vtd.machine.state.endpoints[DEVICE]?.path).toBe('nested');
    const device = vtd.sim(0);
    expect(device.dmaWrite(IOVA, new Uint8Array(1))).toBeLessThan(0);
    vtd.machine.poll();
    expect([device.responses, guest.iommu.read(Reg.pqt, 8)]).toEqual([[], 0n]);
    table.map(BASE, DATA, 1, READ_WRITE);
    vtd.submit(pasidPages(8, DEVICE, BASE));
    expect(device.dmaWrite(IOVA, new Uint8Array(1))).toBe(0);
  });
});
